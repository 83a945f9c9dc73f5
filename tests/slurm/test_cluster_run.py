"""The workflow on a real cluster, its service elsewhere, and what happens to its jobs there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from samcourier.evaluation.check import check_results
from samcourier.results.environment import read_run_environment
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path
from samcourier.transports import Endpoint

from ..contract.site_gates import forward_proxy
from .cluster import NODES, Cluster
from .served import Folder

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def folder(tmp_path: Path, served: Endpoint, cluster: Cluster) -> Folder:
    return Folder(tmp_path / "folder", served)


def running_batches(cluster: Cluster) -> dict[str, str]:
    return cluster.jobs("running")


def test_a_run_makes_its_batches_in_jobs_at_the_same_time(folder: Folder, cluster: Cluster) -> None:
    run = folder.start()
    folder.wait_for(lambda: len(running_batches(cluster)) == 3, run)
    folder.end(run)
    assert sorted(folder.masks()) == folder.images
    assert check_results(folder.results) == []
    assert "Nothing to be done" in folder.end(folder.start())


def kill(cluster: Cluster, job: str) -> None:
    cluster.run("scancel", "--signal=KILL", job)


def let_its_time_end(cluster: Cluster, job: str) -> None:
    """Let the batch hang until SLURM, which looks every half a minute, ends the job."""
    for process in cluster.job_processes(NODES["cpu"]):
        with suppress(psutil.Error):
            if "batch" in process.cmdline():
                process.suspend()
    cluster.run("scontrol", "update", f"jobid={job}", "endtime=now+1")
    cluster.wait("the time limit", lambda: job in cluster.jobs("timeout"), timeout_s=180)


def lose_its_node(cluster: Cluster, job: str) -> None:
    node = NODES["cpu"]
    cluster.lose_node(node)
    cluster.start_node(node)
    # SLURM itself waits some minutes before it starts a job anew.
    for each in cluster.jobs("pending"):
        cluster.run("scontrol", "update", f"jobid={each}", "starttime=now")


@pytest.mark.parametrize("happens", [kill, let_its_time_end, lose_its_node])
def test_a_lost_job_comes_back_by_itself_and_its_masks_are_kept(
    folder: Folder, cluster: Cluster, happens: Callable[[Cluster, str], None]
) -> None:
    run = folder.start("--jobs", "1")
    folder.wait_for(folder.masks, run)
    kept = folder.masks()
    (job,) = running_batches(cluster)
    happens(cluster, job)
    said = folder.end(run)
    written = folder.masks()
    assert sorted(written) == folder.images
    assert {image: written[image] for image in kept} == kept
    assert check_results(folder.results) == []
    # A lost node's job is put back by SLURM itself, if it notices before Snakemake asks.
    assert "Trying to restart" in said or happens is lose_its_node


@contextmanager
def proxy_in_a_thread(hosts: list[str]) -> Iterator[str]:
    """Run the site's proxy beside the test, which waits for processes; yield its URL."""
    url: list[str] = []
    is_up, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with forward_proxy(hosts) as found:
            url.append(found)
            is_up.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert is_up.wait(10)
        yield url[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def test_nodes_without_internet_use_the_proxy_of_the_site(
    tmp_path: Path, served: Endpoint, cluster: Cluster
) -> None:
    hosts: list[str] = []
    # A name that only the proxy knows.
    hidden = f"http://hypha.site.test:{urlsplit(served.server_url).port}"
    folder = Folder(tmp_path / "folder", served, server_url=hidden)
    with proxy_in_a_thread(hosts) as proxy_url:
        folder.end(folder.start(HTTP_PROXY=proxy_url, http_proxy=proxy_url))
    assert sorted(folder.masks()) == folder.images
    assert check_results(folder.results) == []
    # One connection for verify and one for each of the three batches.
    assert hosts.count("CONNECT hypha.site.test") == 4


def manifests(folder: Folder) -> list[Path]:
    return sorted((folder.results / "batches").glob("[!.]*.json"))


def test_edits_during_a_run_do_not_change_that_run(folder: Folder, cluster: Cluster) -> None:
    """Other parameters, another dataset and a row on top, then a config that is no YAML."""
    sheet = folder.directory / "config/images.tsv"
    began_with = sheet.read_text()
    run = folder.start("--jobs", "1")
    folder.wait_for(lambda: len(manifests(folder)) == 1, run)
    folder.configure(parameters={"sigma_px": 3}, dataset="others")
    header, rows = began_with.split("\n", 1)
    sheet.write_text(f"{header}\ntop\ti00.tif\n{rows}")
    folder.wait_for(lambda: len(manifests(folder)) == 2, run)
    (folder.directory / "config/config.yaml").write_text("dataset: [cells\n")
    folder.end(run)
    assert sorted(folder.masks()) == folder.images
    assert [path.name for path in (folder.directory / "results").iterdir()] == ["cells"]
    assert check_results(folder.results) == []
    logs = [read_image_log(log_path(folder.results, image)) for image in folder.images]
    assert [log.parameters for log in logs if log is not None] == [{}] * len(folder.images)
    run_environment = read_run_environment(folder.results)
    assert run_environment is not None and run_environment.config["parameters"] == {}
    recorded = yaml.safe_load((folder.results / "provenance/config.yaml").read_text())
    assert (recorded["dataset"], recorded["parameters"]) == ("cells", {})
    # As it was when the run began.
    folder.configure()
    sheet.write_text(began_with)
    assert "Nothing to be done" in folder.end(folder.start())
