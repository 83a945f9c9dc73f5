"""The service in a job of its own: brought up for the run, found through Hypha, ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from samcourier.deploy.local.record import TOKEN_NAME
from samcourier.deploy.slurm.supervisor import SlurmRecord, read_record
from samcourier.evaluation.check import check_results
from samcourier.transports import Endpoint

from .cluster import Cluster
from .served import Folder

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

JOB = {"partition": "gpu", "time_min": 60}


def make_folder(directory: Path, served: Endpoint, **job: object) -> Folder:
    service = {"target": "slurm", "service_id": None, "memory_mb": 500, "slurm": JOB | job}
    return Folder(directory, served, **service)


@pytest.fixture
def folder(tmp_path: Path, served: Endpoint, cluster: Cluster) -> Folder:
    return make_folder(tmp_path / "folder", served)


def record_of(folder: Folder) -> SlurmRecord:
    record = read_record(folder.results / "service")
    assert record is not None
    return record


def wait_until_gone(folder: Folder, cluster: Cluster) -> None:
    """Wait until the keeper has ended the job, and itself, and left no token."""
    cluster.wait(
        "the end of the service's job",
        lambda: (
            record_of(folder).job_id not in cluster.jobs("running", "pending", "completing")
            and not (folder.results / "service" / TOKEN_NAME).exists()
        ),
    )


def test_a_run_has_its_service_in_a_job_that_comes_back_and_ends_with_it(
    folder: Folder, cluster: Cluster
) -> None:
    run = folder.start("--jobs", "1")
    folder.wait_for(folder.masks, run)
    first = record_of(folder)
    assert cluster.run("squeue", "-h", "-j", first.job_id, "-o", "%P %l").split() == [
        "gpu",
        "1:00:00",
    ]
    # Before its batches are through.
    cluster.run("scancel", first.job_id)
    said = folder.end(run)
    assert f"waiting for SLURM: job {first.job_id} " in said
    assert f"the service's job {first.job_id} is ready" in said
    second = record_of(folder)
    assert second.job_id != first.job_id
    assert second.plan == first.plan
    assert sorted(folder.masks()) == folder.images
    assert check_results(folder.results) == []
    wait_until_gone(folder, cluster)
    assert "Nothing to be done" in folder.end(folder.start())


def test_two_runs_have_a_service_each_and_a_killed_run_leaves_none(
    folder: Folder, cluster: Cluster, tmp_path: Path, served: Endpoint
) -> None:
    other = make_folder(tmp_path / "other", served)
    runs = {each: each.start("--jobs", "1") for each in (folder, other)}
    for each, run in runs.items():
        each.wait_for(each.masks, run)
    mine, theirs = record_of(folder), record_of(other)
    assert mine.plan.service_name != theirs.plan.service_name
    os.killpg(runs[folder].pid, signal.SIGKILL)
    runs[folder].wait()
    wait_until_gone(folder, cluster)
    other.end(runs[other])
    assert record_of(other).job_id == theirs.job_id
    assert sorted(other.masks()) == other.images
    # What outlived its snakemake ends without a service, and the next run goes on.
    for job in cluster.jobs("running", "pending"):
        cluster.run("scancel", job)
    kept = folder.masks()
    folder.end(folder.start())
    assert {image: folder.masks()[image] for image in kept} == kept
    assert check_results(folder.results) == []
    wait_until_gone(folder, cluster)
    wait_until_gone(other, cluster)


def test_a_service_that_does_not_come_up_shows_the_end_of_its_log(
    tmp_path: Path, served: Endpoint, cluster: Cluster
) -> None:
    folder = make_folder(tmp_path / "folder", served)
    folder.service |= {"engine": "microsam", "engine_options": {"model": "no_such_model"}}
    folder.configure()
    said = folder.end(folder.start(), status=1)
    assert "ended before it was ready: FAILED" in said
    assert "no_such_model" in said or "micro" in said
    assert "no batch was started, since samcourier deploy failed" in said


def test_a_queued_job_reports_its_reason(
    tmp_path: Path, served: Endpoint, cluster: Cluster
) -> None:
    folder = make_folder(tmp_path / "folder", served, extra=["--hold"])
    run = folder.start()
    folder.wait_for(lambda: "PENDING (JobHeldUser)" in folder.said, run)
    with contextlib.suppress(subprocess.TimeoutExpired):
        os.killpg(run.pid, signal.SIGINT)
        run.wait(60)
    assert run.returncode not in (None, 0)
    wait_until_gone(folder, cluster)
