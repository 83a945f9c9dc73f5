"""A run that has begun goes on with its settings, whatever becomes of the config and the sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samcourier.pipeline.frozen_jobs import VARIABLE

from .project import RUN_TIMEOUT_S, Project, settings

#: How an executor starts Snakemake once more for one job.
JOB = (
    *("--mode", "remote", "--target-jobs", "segment:batch=0002", "--allowed-rules", "segment"),
    *("--local-groupid", "test", "--nolock", "--ignore-incomplete", "--force"),
)


def break_config(project: Project) -> None:
    (project / "config/config.yaml").write_text("dataset: [cells\n")


def change_dataset(project: Project) -> None:
    project.configure(dataset="others", parameters={"sigma_px": 9})


def change_sheet(project: Project) -> None:
    project.write_sheet("img_7", "img_1", "img_2")


CHANGES = [break_config, change_dataset, change_sheet]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_a_run_is_at_work_changes_nothing_of_it(fresh: Project, change: Any) -> None:
    fresh.script(hold=["0002", "0003"])
    run = fresh.start("--cores", "3")
    fresh.wait_for(lambda: "0001" in fresh.ran)
    change(fresh)
    (fresh / "go").touch()
    run.join(RUN_TIMEOUT_S)
    assert run.exitcode == 0, fresh.output
    batches = [call for call in fresh.calls if call["name"].isdigit() or call["name"] == "report"]
    assert len(batches) == 4
    assert {json.dumps(settings(call)) for call in batches} == {json.dumps(settings(batches[0]))}
    assert [path.name for path in (fresh / "results").iterdir()] == ["cells"]
    fresh.configure()
    fresh.write_sheet(*[f"img_{number}" for number in range(1, 8)])
    assert "Nothing to be done" in fresh.run()


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_that_starts_snakemake_again_does_not_read_the_config(
    finished: Project, change: Any
) -> None:
    (path,) = (finished / "results/cells/run").glob("*.json")
    manifest = finished / "results/cells/batches/0002.json"
    manifest.unlink()
    change(finished)
    finished.environment[VARIABLE] = json.dumps({"": str(path)})
    finished.run(*JOB)
    (call,) = finished.calls
    assert call["arguments"][:3] == ["batch", "--settings", f"results/cells/run/{path.name}"]
    assert settings(call)["parameters"] == {}
    assert manifest.exists()


def test_a_job_without_its_settings_file_says_so_in_one_line(finished: Project) -> None:
    path = Path("results/cells/run/0123.json").absolute()
    finished.environment[VARIABLE] = json.dumps({"": str(path)})
    output = finished.run(*JOB, "--latency-wait", "1", status=1)
    assert f"samcourier: {path}: No such file or directory, expected a file that the run" in output
    assert "Traceback" not in output


def test_a_settings_file_that_was_changed_is_refused(finished: Project) -> None:
    (path,) = (finished / "results/cells/run").glob("*.json")
    path.write_text(path.read_text().replace('"batch_size": 3', '"batch_size": 4'))
    finished.environment[VARIABLE] = json.dumps({"": str(path)})
    output = finished.run(*JOB, status=1)
    assert "changed since the run began" in output
    assert "Traceback" not in output
