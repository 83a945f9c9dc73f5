"""What the rules are given, with a stand-in for Snakemake's own object."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from samcourier.pipeline import snakemake_internals as internals
from samcourier.pipeline.frozen_jobs import VARIABLE
from samcourier.pipeline.snakemake_run import WorkflowRun, is_frozen_job, open_run
from samcourier.results.layout import manifest_path

CONFIG = {"dataset": "cells", "sheet": "images.tsv", "batch_size": 2}


class Snakemake(SimpleNamespace):
    """The attributes of Snakemake's object that the workflow uses."""

    def __init__(self, *, is_main_process: bool = True, is_executing: bool = False) -> None:
        super().__init__(
            is_main_process=is_main_process,
            executor_plugin=object() if is_executing else None,
            dryrun=False,
            touch=False,
            local_exec=True,
            global_resources={},
            execution_settings=SimpleNamespace(latency_wait=0),
            modifier=SimpleNamespace(namespace=None),
            overwrite_configfiles=["config/other.yaml"],
            dag=SimpleNamespace(forcefiles=set(), jobs=[], needrun_jobs=lambda: iter([object()])),
        )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("SAMCOURIER_RUN_PID", "1")
    monkeypatch.setattr(internals, "add_interpreter_to_path", lambda: None)
    Path("images.tsv").write_text("image\tpath\na\ta.tif\nb\tb.tif\nc\tc.tif\n")
    Path(".snakemake").mkdir()
    Path("a.tif").touch()


def opened(snakemake: Snakemake, **changes: Any) -> WorkflowRun:
    return open_run(snakemake, {**CONFIG, **changes}, Path("workflow/Snakefile"))


def wildcards(batch: str) -> SimpleNamespace:
    return SimpleNamespace(batch=batch)


@pytest.fixture
def start() -> Iterator[Callable[[WorkflowRun], None]]:
    """Begin a run; its lock, which the end of a process frees, is freed after the test."""
    started: list[WorkflowRun] = []

    def begin(run: WorkflowRun) -> None:
        started.append(run)
        run.start(segment=object(), doctor=object())

    yield begin
    for run in started:
        if run._lock is not None:
            run._lock.close()


def test_a_batch_depends_on_its_files_that_are_there() -> None:
    run = opened(Snakemake())
    assert run.batch_inputs(wildcards("0001")) == ["a.tif"]
    assert run.batch_message(wildcards("0002"), []) == "batch 0002 of 2: 1 image"


def test_a_dry_run_writes_nothing() -> None:
    before = sorted(Path().rglob("*"))
    run = opened(Snakemake())
    assert run.settings_file().startswith("results/cells/run/")
    assert sorted(Path().rglob("*")) == before


def test_a_batch_whose_manifest_is_out_of_date_is_made_anew_by_the_main_process_alone() -> None:
    manifest = manifest_path(Path("results/cells"), "0001")
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    for is_main_process, remade in ((True, {str(manifest)}), (False, set())):
        snakemake = Snakemake(is_main_process=is_main_process)
        opened(snakemake).batch_inputs(wildcards("0001"))
        assert snakemake.dag.forcefiles == remade


def test_a_run_that_starts_writes_its_settings_and_tells_its_jobs(
    start: Callable[[WorkflowRun], None],
) -> None:
    snakemake = Snakemake()
    run = opened(snakemake)
    snakemake.dag.needrun_jobs = lambda: iter(())
    start(run)
    path = Path(run.settings_file())
    assert json.loads(path.read_text())["settings"]["dataset"] == "cells"
    # The main process would read an edited config again; its job does not read it at all.
    assert not is_frozen_job(Snakemake())
    job = Snakemake(is_main_process=False)
    assert is_frozen_job(job)
    Path("images.tsv").unlink()
    again = open_run(job, {"unknown": 1}, Path("workflow/Snakefile"))
    assert again.plan.settings == run.plan.settings
    assert again.settings_file() == run.settings_file()
    assert snakemake.overwrite_configfiles == []


def test_a_job_of_a_run_that_was_not_started_writes_the_settings_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(internals, "show", shown.extend)
    run = opened(Snakemake(is_main_process=False, is_executing=True))
    assert Path(run.settings_file()).is_file()
    run.settings_file()
    assert len(shown) == 1 and "not frozen" in shown[0]


def test_a_second_run_of_the_dataset_is_refused(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[WorkflowRun], None]
) -> None:
    class Refused(Exception):
        pass

    def end_run(problem: object) -> None:
        raise Refused(problem)

    monkeypatch.setattr(internals, "end_run", end_run)
    snakemake = Snakemake()
    snakemake.dag.needrun_jobs = lambda: iter(())
    first = opened(snakemake)
    start(first)
    with pytest.raises(Refused, match="is in use by process"):
        start(opened(snakemake))


def test_a_config_that_is_wrong_ends_snakemake_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[object] = []

    def end_run(problem: object) -> None:
        ended.append(problem)
        raise SystemExit(1)

    monkeypatch.setattr(internals, "end_run", end_run)
    with pytest.raises(SystemExit):
        opened(Snakemake(), batch_size=0)
    assert str(ended[0]).startswith("config.batch_size: 0, expected: a whole number of images")


def test_batches_share_the_connections_of_the_config() -> None:
    snakemake = Snakemake()
    opened(snakemake, network={"connections": 7})
    assert snakemake.global_resources == {"connections": 7}
