"""A large image through the real service: in tiles as whole, and after kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.evaluation.check import check_results
from samcourier.files.atomic import write_private
from samcourier.masks.integrity import read_provenance
from samcourier.masks.omezarr import read_mask
from samcourier.results.image_log import ImageLog, read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.transports import Endpoint

SIDE_PX = 3000
TILE_COUNT = 9
TIMEOUT_S = 300
CUT = ("--tile-halo-px", "128", "--tile-edge-px", "1024", "--tiles-above-px", "1000000")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2500 bright cells on noise, some of which touch; the top left tile is blank."""
    rng = np.random.default_rng(11)
    image = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    y, x = np.ogrid[-20:21, -20:21]
    for at_y, at_x in rng.integers(20, SIDE_PX - 21, (2500, 2)):
        if min(at_y, at_x) > 1300 or max(at_y, at_x) > 1300:
            spot = np.exp(-(((y**2 + x**2) / rng.uniform(6, 11) ** 2) ** 2))
            image[at_y - 20 : at_y + 21, at_x - 20 : at_x + 21] += spot * rng.uniform(600, 3000)
    image += rng.normal(300, 20, image.shape)
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    tifffile.imwrite(path, image.clip(0, 65535).astype(np.uint16))
    return path


@pytest.fixture(scope="module")
def command(live_endpoint: Endpoint, slide: Path) -> list[str]:
    token_file = slide.with_name("token")
    write_private(token_file, str(live_endpoint.token))
    return [
        *(sys.executable, "-m", "samcourier.cli", "segment", str(slide), "--target", "existing"),
        *("--server-url", live_endpoint.server_url, "--workspace", live_endpoint.workspace),
        *("--service-id", live_endpoint.service_id, "--token-file", str(token_file)),
    ]


def finished(command: list[str], dataset_dir: Path, *options: str) -> ImageLog:
    """Run to the end; return the image's log."""
    done = subprocess.run(
        [*command, "--dataset-dir", str(dataset_dir), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout
    assert check_results(dataset_dir) == []
    log = read_image_log(log_path(dataset_dir, "slide"))
    assert log is not None
    return log


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    dataset_dir = tmp_path_factory.mktemp("whole")
    assert finished(command, dataset_dir, "--transport", "websocket").tiles == 1
    return read_mask(mask_path(dataset_dir, "slide"))


@pytest.fixture(scope="module")
def digests() -> set[str]:
    """Those of the masks that came over each transport."""
    return set()


def assert_is(whole: np.ndarray, dataset_dir: Path) -> None:
    mask = read_mask(mask_path(dataset_dir, "slide"))
    np.testing.assert_array_equal(mask > 0, whole > 0)
    pairs = np.unique(np.stack([mask.ravel(), whole.ravel()]), axis=1)
    assert pairs.shape[1] == whole.max() + 1 == mask.max() + 1
    assert not mask[:1024, :1024].any()


@pytest.mark.parametrize("transport", ["websocket", "webrtc", "http"])
def test_tiles_give_the_mask_of_the_whole_image(
    command: list[str], whole: np.ndarray, digests: set[str], tmp_path: Path, transport: str
) -> None:
    log = finished(command, tmp_path, *CUT, "--transport", transport)
    assert {each.transport for each in log.attempts} == {transport}
    assert log.object_count == whole.max() > 1500
    assert (log.tiles, log.note) == (TILE_COUNT, None)
    assert sorted(each.tile or 0 for each in log.attempts) == list(range(TILE_COUNT))
    assert_is(whole, tmp_path)
    provenance = read_provenance(mask_path(tmp_path, "slide"))
    assert provenance is not None
    digests.add(provenance["content_sha256"])
    assert len(digests) == 1, "the way and the order of arrival changed the mask"


def test_after_kill_9_only_the_missing_tiles_are_called_for(
    command: list[str], whole: np.ndarray, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*command, "--dataset-dir", str(tmp_path), *CUT],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    tiles = tmp_path / "masks" / ".slide.ome.zarr.tiles"
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(tiles.glob("*/*-??????"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(tiles.glob("*/*-??????")))
    log = finished(command, tmp_path, *CUT)
    assert 3 <= log.tiles_kept == kept < TILE_COUNT
    assert len(log.attempts) == TILE_COUNT - kept
    assert not tiles.exists()
    assert_is(whole, tmp_path)
