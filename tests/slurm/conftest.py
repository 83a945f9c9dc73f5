"""A SLURM cluster for each module, and one slow canned service outside of it for all tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.transports import Endpoint

from .cluster import Cluster, running_cluster, why_not
from .served import REPO

sys.path[:0] = [str(REPO / "bench"), str(REPO / "bench/networks")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    reason = why_not() if here else None
    if reason is not None:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


# Of its configuration a machine has one, so a module with nodes of another kind brings its own.
@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), allow_process) as running:
        yield running


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[Endpoint]:
    """A Hypha server and a service that takes a second an image, as they run elsewhere."""
    from canned_service import running_canned_service

    directory = tmp_path_factory.mktemp("served")
    mask = directory / "mask.tif"
    tifffile.imwrite(mask, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 512)
    options = ("--work-s", 1, "--busy-log", directory / "busy")
    with running_canned_service(mask, directory, *options, on_start=allow_process) as endpoint:
        yield endpoint
