"""The example of docs/module.md with a git repository, a real run over a local service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from samcourier.pipeline.snakemake_internals import CAPTIONS
from samcourier.samples.demo import write_demo

REPO = Path(__file__).parents[2]
RUN_TIMEOUT_S = 240

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def workflow_files(home: Path) -> dict[str, str]:
    kinds = ("Snakefile", "rules/*.smk", "captions/*.rst")
    files = [path for kind in kinds for path in home.glob(kind)]
    return {path.relative_to(home).as_posix(): path.read_text() for path in files}


def test_the_module_runs_from_git_and_keeps_its_rules_with_the_results(tmp_path: Path) -> None:
    checkout, folder = tmp_path / "samcourier", tmp_path / "analysis"
    expected = workflow_files(REPO / "workflow")
    for name, text in expected.items():
        (checkout / "workflow" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "workflow" / name).write_text(text)
    for command in ("init -q", "add .", "commit -qm release", "tag v1"):
        who = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
        subprocess.run(["git", *who, *command.split()], cwd=checkout, check=True)
    shutil.rmtree(checkout / "workflow")
    (snakefile,) = re.findall(
        r"```python\n(module samcourier:.*?)```", (REPO / "docs/module.md").read_text(), re.DOTALL
    )
    source = f'"git+file://{checkout}/workflow/Snakefile@v1"'
    folder.mkdir()
    (folder / "Snakefile").write_text(
        snakefile.replace('"/path/to/samcourier/workflow/Snakefile"', source)
    )
    write_demo(folder / "data/demo", 7)
    (folder / "cells.tsv").write_text("image\tpath\na\tdata/demo/nuclei_01.tif\n")
    config = {"samcourier": {"dataset": "plate7", "sheet": "cells.tsv"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "2", "results/plate7/counts.txt"),
            *("--configfile", "config.yaml"),
        ],
        cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int((folder / "results/plate7/counts.txt").read_text()) > 0
    assert workflow_files(folder / "results/plate7/provenance/workflow") == expected


def test_every_caption_of_the_workflow_is_known() -> None:
    captions = (REPO / "workflow/captions").iterdir()
    assert {f"captions/{path.name}" for path in captions} == set(CAPTIONS)
