"""Nodes where UDP is closed: the run goes another way, and each log says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.evaluation.check import check_results
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path
from samcourier.transports import Endpoint

from .cluster import Inside, running_cluster
from .served import Folder

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def elsewhere(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[tuple[Inside, Endpoint]]:
    """A cluster on a host that no datagram reaches, Hypha and the service on others."""
    from lab import built_lab
    from namespaces import missing_for_namespaces
    from regimes import FAST, Regime
    from servers import running_servers

    if missing := missing_for_namespaces():
        pytest.skip(f"no host of its own for the cluster: {missing}")
    directory = tmp_path_factory.mktemp("elsewhere")
    mask = directory / "mask.tif"
    tifffile.imwrite(mask, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 512)
    with (
        built_lab(Regime("closed", FAST, FAST, FAST, udp_blocked=True)) as lab,
        running_servers(lab, mask) as servers,
        running_cluster(directory, allow_process, inside := in_network(lab.host("client").name)),
    ):
        yield inside, Endpoint(**servers.endpoint)


def in_network(namespace: str) -> Inside:
    """Enter the network alone: `ip netns exec` hides the control groups that slurmd needs."""
    return lambda *command: ["nsenter", f"--net=/run/netns/{namespace}", *command]


def test_nodes_without_udp_go_another_way_and_say_so(
    tmp_path: Path, elsewhere: tuple[Inside, Endpoint]
) -> None:
    inside, served = elsewhere
    folder = Folder(tmp_path / "folder", served, inside)
    folder.end(folder.start())
    assert sorted(folder.masks()) == folder.images
    assert check_results(folder.results) == []
    for image in folder.images:
        log = read_image_log(log_path(folder.results, image))
        assert log is not None
        (attempt,) = log.attempts
        assert attempt.transport in ("websocket", "http")
        assert "webrtc" in attempt.reason
