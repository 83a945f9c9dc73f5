"""The workflow as a module of another, whose handlers and config are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from samcourier.pipeline.frozen_jobs import VARIABLE

REPO = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_samcourier.py")
RUN_TIMEOUT_S = 120

#: As docs/module.md shows it, with the folder of this checkout for the repository.
SNAKEFILE = f"""
module samcourier:
    snakefile: {str(REPO / "workflow/Snakefile")!r}
    config: config["samcourier"]

use rule * from samcourier {{renamed}}

{{handlers}}
rule counted:
    input: "results/cells/complete.json"
    output: "counted.txt"
    default_target: True
    shell: "wc -c < {{{{input}}}} > {{{{output}}}}"
"""
#: How an executor starts Snakemake once more for one job.
JOB = (
    *("--mode", "remote", "--target-jobs", "segment:batch=0002", "--allowed-rules", "segment"),
    *("--local-groupid", "test", "--nolock", "--ignore-incomplete", "--force"),
)
HANDLERS = "onstart:\n    samcourier.onstart()\n\nonerror:\n    samcourier.onerror()\n"


class Outer:
    """A folder with a Snakefile of its own that uses samcourier for one of its steps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for folder in ("bin", "data", "cache"):
            (directory / folder).mkdir(parents=True)
        command = directory / "bin/samcourier"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
        command.chmod(0o755)
        for image in ("one", "two"):
            (directory / f"data/{image}.tif").write_text(image)
        (directory / "cells.tsv").write_text("image\tpath\none\tdata/one.tif\ntwo\tdata/two.tif\n")
        self.output = ""
        self.configure()

    def configure(self, dataset: str = "cells") -> None:
        config = {"samcourier": {"dataset": dataset, "sheet": "cells.tsv", "batch_size": 1}}
        (self.directory / "config.yaml").write_text(json.dumps(config))

    def run(self, renamed: str, handlers: str, *arguments: str, **environment: str) -> list[str]:
        """Run snakemake and return what samcourier was called for."""
        text = SNAKEFILE.format(renamed=renamed, handlers=handlers)
        (self.directory / "Snakefile").write_text(text)
        calls = self.directory / "calls.jsonl"
        calls.unlink(missing_ok=True)
        snakemake = Path(sys.executable).with_name("snakemake")
        done = subprocess.run(
            [snakemake, "--cores", "1", "--configfile", "config.yaml", *arguments],
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(
                    [str(REPO / "workflow"), str(REPO / "service"), sysconfig.get_path("platlib")]
                ),
                "XDG_CACHE_HOME": str(self.directory / "cache"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        self.output = done.stdout + done.stderr
        assert done.returncode == 0, self.output
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [json.loads(line)["name"] for line in lines]


@pytest.mark.parametrize("renamed", ["", "as cells_*"], ids=["same_names", "renamed"])
def test_a_module_brings_the_service_up_through_the_handlers(renamed: str, tmp_path: Path) -> None:
    outer = Outer(tmp_path)
    called = outer.run(renamed, HANDLERS)
    assert called[:2] == ["deploy", "verify"]
    assert sorted(called[2:-1]) == ["0001", "0002"]
    assert called[-1] == "report"
    assert (tmp_path / "counted.txt").exists()
    assert "not frozen" not in outer.output
    assert outer.run(renamed, HANDLERS) == []


def test_a_job_of_a_module_has_the_settings_that_its_run_began_with(tmp_path: Path) -> None:
    """Under the module's name: another workflow may use this one for several datasets."""
    outer = Outer(tmp_path)
    outer.run("", HANDLERS)
    (path,) = (tmp_path / "results/cells/run").glob("*.json")
    (tmp_path / "results/cells/batches/0002.json").unlink()
    outer.configure(dataset="others")
    called = outer.run("", HANDLERS, *JOB, **{VARIABLE: json.dumps({"samcourier": str(path)})})
    assert called == ["0002"]
    assert [each.name for each in (tmp_path / "results").iterdir()] == ["cells"]


def test_snakemake_runs_no_handler_of_a_module_by_itself(tmp_path: Path) -> None:
    """Why docs/module.md has two handlers to copy; red when they are no longer needed."""
    outer = Outer(tmp_path)
    assert sorted(outer.run("", "")) == ["0001", "0002", "report"]
    assert outer.output.count("the run is not frozen") == 1
