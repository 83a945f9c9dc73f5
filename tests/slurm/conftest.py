"""One SLURM cluster and one slow canned service outside of it for all tests here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from .cluster import Cluster, running_cluster, why_not
from .served import REPO, Served, wait_for_service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    reason = why_not() if here else None
    if reason is not None:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), allow_process) as running:
        yield running


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[Served]:
    """A Hypha server and a service that takes a second an image, as they run elsewhere."""
    directory = tmp_path_factory.mktemp("served")
    mask, found = directory / "mask.tif", directory / "service.json"
    tifffile.imwrite(mask, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 512)
    script = REPO / "bench/canned_service.py"
    command = [
        sys.executable,
        script,
        mask,
        found,
        "--work-s",
        "1",
        "--busy-log",
        directory / "busy",
    ]
    with (directory / "service.log").open("w") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    allow_process(process.pid)
    try:
        yield wait_for_service(process, found, directory / "service.log")
    finally:
        process.terminate()
        process.wait()
