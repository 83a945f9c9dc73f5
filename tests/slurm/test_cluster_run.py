"""The workflow on a real cluster, its service elsewhere, and what happens to its jobs there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from samcourier.check import check_run

from .cluster import NODES, Cluster
from .served import Folder, Served

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path: Path, served: Served, cluster: Cluster) -> Folder:
    return Folder(tmp_path / "folder", served)


def running_batches(cluster: Cluster) -> dict[str, str]:
    return cluster.jobs("running")


def test_a_run_makes_its_batches_in_jobs_at_the_same_time(folder: Folder, cluster: Cluster) -> None:
    run = folder.start()
    folder.wait_for(lambda: len(running_batches(cluster)) == 3, run)
    folder.end(run)
    assert sorted(folder.masks()) == folder.images
    assert check_run(folder.results) == []
    assert "Nothing to be done" in folder.end(folder.start())


def kill(cluster: Cluster, job: str, service_pid: int) -> None:
    cluster.run("scancel", "--signal=KILL", job)


def let_its_time_end(cluster: Cluster, job: str, service_pid: int) -> None:
    """Let the service stand still until SLURM, which counts in minutes, ends the job."""
    os.kill(service_pid, signal.SIGSTOP)
    try:
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=1")
        cluster.wait("the time limit", lambda: job in cluster.jobs("timeout"), timeout_s=180)
    finally:
        os.kill(service_pid, signal.SIGCONT)


def lose_its_node(cluster: Cluster, job: str, service_pid: int) -> None:
    node = NODES["cpu"]
    cluster.lose_node(node)
    cluster.start_node(node)
    # SLURM itself waits some minutes before it starts a job anew.
    for each in cluster.jobs("pending"):
        cluster.run("scontrol", "update", f"jobid={each}", "starttime=now")


@pytest.mark.parametrize("happens", [kill, let_its_time_end, lose_its_node])
def test_a_lost_job_comes_back_by_itself_and_its_masks_are_kept(
    folder: Folder,
    cluster: Cluster,
    served: Served,
    happens: Callable[[Cluster, str, int], None],
) -> None:
    run = folder.start("--jobs", "1")
    folder.wait_for(folder.masks, run)
    kept = folder.masks()
    (job,) = running_batches(cluster)
    happens(cluster, job, served["pid"])
    said = folder.end(run)
    written = folder.masks()
    assert sorted(written) == folder.images
    assert {image: written[image] for image in kept} == kept
    assert check_run(folder.results) == []
    print(said)
    # A lost node's job is put back by SLURM itself, if it notices before Snakemake asks.
    assert "Trying to restart" in said or happens is lose_its_node
