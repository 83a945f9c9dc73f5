"""samcourier against the client it replaces, over one canned service, in one run.

The naive client does what the origin's script does: one image after another, raw ndarray,
WebSocket with hypha-rpc's defaults. Both sides read the demo's 2048 x 2048 images and write the
mask (the naive client as .npy, samcourier as OME-Zarr with its log). Runs are interleaved.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import uvloop
from figures import Figures
from hypha_rpc import connect_to_server

from samcourier.batch import BatchRun, BatchSettings
from samcourier.connection import connected
from samcourier.dataset import Batch, ImageRow
from samcourier.demo import DEMO_IMAGES, write_image
from samcourier.journal import ConnectionJournal
from samcourier.transports import Endpoint, build_transports

RUNS = 5
IMAGE_COUNT = 8
SERVICE_TIMEOUT_S = 90


async def naive(endpoint: Endpoint, service_id: str, images: list[Path], out: Path) -> float:
    """Return the seconds for all images, the connection already open."""
    server = await connect_to_server({"server_url": endpoint.server_url, "token": endpoint.token})
    try:
        service = await server.get_service(service_id)
        start_s = time.perf_counter()
        for path in images:
            mask = await service.segment_all(tifffile.imread(path))
            np.save(out / f"{path.stem}.npy", mask)
        return time.perf_counter() - start_s
    finally:
        await server.disconnect()


async def courier(endpoint: Endpoint, images: list[Path], out: Path) -> tuple[float, float]:
    """Return the seconds for all images, and the median seconds of one call."""
    rows = tuple(ImageRow(path.stem, path) for path in images)
    logs = []
    with ConnectionJournal(out / "journal.jsonl") as journal:
        async with connected(build_transports(endpoint), journal, len(rows)) as (manager, found):
            run = BatchRun(BatchSettings(out), manager, found, logs.append)
            start_s = time.perf_counter()
            await run.run(Batch("0001", rows))
            seconds = time.perf_counter() - start_s
    return seconds, statistics.median(log.attempts[-1].seconds.total for log in logs)


async def measure(endpoint: Endpoint, images: list[Path], scratch: Path) -> Figures:
    """Interleave the clients and compare the medians."""
    seconds: dict[str, list[float]] = {"naive_stock": [], "naive_fast_service": [], "courier": []}
    calls: list[float] = []
    for run in range(RUNS + 1):
        out = scratch / "out"
        out.mkdir()
        taken = {
            "naive_stock": await naive(endpoint, "stock", images, out),
            "naive_fast_service": await naive(endpoint, endpoint.service_id, images, out),
        }
        taken["courier"], call_s = await courier(endpoint, images, out)
        shutil.rmtree(out)
        if run == 0:
            continue
        calls.append(call_s)
        for name, value in taken.items():
            seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    figures = Figures("naive")
    for name, value in median.items():
        figures.add(f"{name}_per_image", 1000 * value / len(images), "ms")
    figures.add("courier_call_median", 1000 * statistics.median(calls), "ms")
    figures.add("ratio_naive_stock", median["naive_stock"] / median["courier"], "x")
    figures.add("ratio_naive_fast_service", median["naive_fast_service"] / median["courier"], "x")
    return figures


def make_images(directory: Path) -> tuple[list[Path], Path]:
    """Write the demo's single-channel 2048 x 2048 images, some of them twice, and a mask."""
    large = [image for image in DEMO_IMAGES if image.size_px == (2048, 2048)]
    large = [image for image in large if image.axes == "YX"]
    for image in large:
        write_image(image, directory)
    paths = []
    for number in range(IMAGE_COUNT):
        image = large[number % len(large)]
        path = directory / f"large_{number}.tif"
        shutil.copy(directory / f"{image.id}.tif", path)
        paths.append(path)
    return paths, directory / "truth" / f"{large[0].id}.tif"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        images, mask = make_images(scratch)
        found = scratch / "service.json"
        service = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("canned_service.py")), mask, found]
        )
        try:
            deadline_s = time.monotonic() + SERVICE_TIMEOUT_S
            while not found.exists():
                if service.poll() is not None or time.monotonic() > deadline_s:
                    sys.exit("the canned service did not start")
                time.sleep(0.2)
            endpoint = Endpoint(**json.loads(found.read_text()))
            uvloop.run(measure(endpoint, images, scratch)).publish()
        finally:
            service.terminate()
            service.wait()


if __name__ == "__main__":
    main()
