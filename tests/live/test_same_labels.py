"""One dataset and model: bit-identical labels, whatever way, batches, order or fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.deploy.local.start import ensure_local_service, stop_local_service
from samcourier.files.atomic import write_private
from samcourier.masks.integrity import read_provenance
from samcourier.results.layout import mask_path

pytestmark = [pytest.mark.live, pytest.mark.slow]

IMAGES = tuple(f"cells_{number}" for number in range(6))
TIMEOUT_S = 120


@dataclass(frozen=True)
class Bench:
    """Six images, a sheet of them in either order, and a service to segment them with."""

    directory: Path
    service: tuple[str, ...]

    def sheet(self, images: tuple[str, ...]) -> Path:
        path = self.directory / f"{images[0]}_first.tsv"
        rows = (f"{image}\t{self.directory / image}.tif\n" for image in images)
        path.write_text("image\tpath\n" + "".join(rows))
        return path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "samcourier.cli", *map(str, arguments), *self.service],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def segment(self, results: Path, images: tuple[str, ...], *options: object) -> None:
        sheet = self.sheet(images)
        finish(self.start("segment", sheet, "--dataset-dir", results, *options))

    def labels(self, results: Path) -> dict[str, str]:
        found = {image: read_provenance(mask_path(results, image)) for image in IMAGES}
        return {image: said["labels_sha256"] for image, said in found.items() if said}


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("same")
    y, x = np.mgrid[:128, :128]
    for seed, image in enumerate(IMAGES):
        rng = np.random.default_rng(seed)
        pixels = rng.normal(200, 20, (128, 128))
        for _ in range(12):
            row, column, radius_px = *rng.uniform(10, 118, 2), rng.uniform(6, 14)
            pixels[(y - row) ** 2 + (x - column) ** 2 < radius_px**2] += rng.uniform(300, 900)
        tifffile.imwrite(directory / f"{image}.tif", pixels.astype(np.uint16))
    endpoint = ensure_local_service(directory / "service", "watershed", {})
    write_private(directory / "token", endpoint.token or "")
    options = ("--target", "existing", "--server-url", endpoint.server_url)
    options += ("--workspace", endpoint.workspace or "", "--service-id", endpoint.service_id)
    try:
        yield Bench(directory, (*options, "--token-file", str(directory / "token")))
    finally:
        stop_local_service(directory / "service")


@pytest.fixture(scope="module")
def reference(bench: Bench) -> dict[str, str]:
    results = bench.directory / "reference"
    bench.segment(results, IMAGES, "--transport", "websocket", "--batch-size", 6)
    labels = bench.labels(results)
    assert len(set(labels.values())) == len(IMAGES)
    return labels


@pytest.mark.parametrize(
    ("transport", "batch_size", "images"),
    [
        ("websocket", 1, IMAGES),
        ("http", 5, IMAGES[::-1]),
        ("webrtc", 24, IMAGES),
        ("auto", 5, IMAGES[::-1]),
    ],
)
def test_labels_are_the_same_over_any_transport_and_in_any_batch(
    bench: Bench,
    reference: dict[str, str],
    tmp_path: Path,
    transport: str,
    batch_size: int,
    images: tuple[str, ...],
) -> None:
    bench.segment(tmp_path, images, "--transport", transport, "--batch-size", batch_size)
    assert bench.labels(tmp_path) == reference


def test_labels_are_the_same_with_three_jobs_at_once(
    bench: Bench, reference: dict[str, str], tmp_path: Path
) -> None:
    sheet = bench.sheet(IMAGES)
    jobs = [
        bench.start(
            *("batch", sheet, "--batch", batch, "--batch-size", 2, "--dataset-dir", tmp_path),
            *("--out", tmp_path / f"{batch}.json"),
        )
        for batch in ("0001", "0002", "0003")
    ]
    for job in jobs:
        finish(job)
    assert bench.labels(tmp_path) == reference


def test_labels_are_the_same_after_a_kill(
    bench: Bench, reference: dict[str, str], tmp_path: Path
) -> None:
    options = ("segment", bench.sheet(IMAGES), "--dataset-dir", tmp_path, "--batch-size", 1)
    killed = bench.start(*options)
    deadline = time.monotonic() + TIMEOUT_S
    while not bench.labels(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < len(bench.labels(tmp_path)) < len(IMAGES)
    finish(bench.start(*options))
    assert bench.labels(tmp_path) == reference
