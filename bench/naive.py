"""samcourier against the client it replaces, over one canned service, in one run.

The naive client does what the origin's script does: one image after another, raw ndarray,
WebSocket with hypha-rpc's defaults. Two comparisons, every run of one beside a run of the other:

calls: image in memory to mask in memory, one after another on both sides.
files: image file to mask file; samcourier overlaps the stages, hashes the pixels and writes
OME-Zarr with its log, where the naive client only writes a .npy.

The naive client calls the service as hypha-rpc's defaults register it (``stock``), and, for what
the service alone has gained, samservice's registration too (``fast_service``).
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import uvloop
from canned_service import running_canned_service
from figures import Figures
from hypha_rpc import connect_to_server

from samcourier.connection import connected
from samcourier.connection.call import Call
from samcourier.connection.ranking import Payload
from samcourier.results.connection_log import ConnectionJournal
from samcourier.samples.demo import DEMO_IMAGES, write_image
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import BatchRun
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings
from samcourier.transports import Endpoint, build_transports
from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array, packed_nbytes, unpack_array

RUNS = 5
IMAGE_COUNT = 16


@asynccontextmanager
async def naive_service(endpoint: Endpoint, service_id: str) -> AsyncIterator[Any]:
    server = await connect_to_server({"server_url": endpoint.server_url, "token": endpoint.token})
    try:
        yield await server.get_service(service_id)
    finally:
        await server.disconnect()


async def naive_calls(endpoint: Endpoint, service_id: str, images: list[np.ndarray]) -> float:
    """Return the seconds for all calls."""
    async with naive_service(endpoint, service_id) as service:
        start_s = time.perf_counter()
        for image in images:
            await service.segment_all(image)
        return time.perf_counter() - start_s


async def naive_files(endpoint: Endpoint, service_id: str, paths: list[Path], out: Path) -> float:
    """Return the seconds from the first image read to the last mask written."""
    async with naive_service(endpoint, service_id) as service:
        start_s = time.perf_counter()
        for path in paths:
            np.save(out / f"{path.stem}.npy", await service.segment_all(tifffile.imread(path)))
        return time.perf_counter() - start_s


async def courier_calls(endpoint: Endpoint, images: list[np.ndarray], out: Path) -> float:
    """Return the seconds for all calls, packing and unpacking included."""

    async def accept(value: Any) -> np.ndarray:
        return unpack_array(value["mask"], 1 << 30)

    with ConnectionJournal(out / "journal.jsonl") as journal:
        transports = build_transports(endpoint)
        async with connected(transports, journal, len(images)) as (manager, _):
            start_s = time.perf_counter()
            for image in images:
                packed = pack_array(image, FAST_IMAGE_CODEC)
                payload = Payload(packed_nbytes(packed), 100_000)
                arguments = {"image_or_embedding": packed}
                await manager.call(Call("segment_all", arguments, payload, accept))
            return time.perf_counter() - start_s


async def courier_files(endpoint: Endpoint, paths: list[Path], out: Path) -> float:
    """Return the seconds of one batch."""
    rows = tuple(ImageRow(path.stem, path) for path in paths)
    with ConnectionJournal(out / "journal.jsonl") as journal:
        async with connected(build_transports(endpoint), journal, len(rows)) as (manager, found):
            run = BatchRun(BatchSettings(out, RunSettings(dataset="bench")), manager, found)
            start_s = time.perf_counter()
            await run.run(Batch("0001", rows))
            return time.perf_counter() - start_s


async def measure(endpoint: Endpoint, paths: list[Path], scratch: Path) -> Figures:
    """Interleave the clients, leave the first round out, and compare the medians."""
    images = [tifffile.imread(path) for path in paths]
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in range(RUNS + 1):
        out = scratch / "out"
        out.mkdir()
        taken = {
            "calls_naive_stock": await naive_calls(endpoint, "stock", images),
            "calls_courier": await courier_calls(endpoint, images, out),
            "calls_naive_fast_service": await naive_calls(endpoint, endpoint.service_id, images),
            "files_naive_stock": await naive_files(endpoint, "stock", paths, out),
            "files_courier": await courier_files(endpoint, paths, out),
        }
        shutil.rmtree(out)
        if run:
            for name, value in taken.items():
                seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    figures = Figures("naive")
    for name, value in median.items():
        figures.add(f"{name}_per_image", 1000 * value / len(paths), "ms")
    for ours, theirs in (
        ("calls_courier", "calls_naive_stock"),
        ("calls_courier", "calls_naive_fast_service"),
        ("files_courier", "files_naive_stock"),
    ):
        figures.add(f"ratio_{theirs}", median[theirs] / median[ours], "x")
    return figures


def make_images(
    directory: Path, size_px: int = 2048, image_count: int = IMAGE_COUNT
) -> tuple[list[Path], Path]:
    """Write the demo's square single-channel images of this size, repeated, and a mask."""
    square = (size_px, size_px)
    large = [each for each in DEMO_IMAGES if each.size_px == square and each.axes == "YX"]
    large = [each for each in large if each.dtype == "uint16"]
    for each in large:
        write_image(each, directory)
    paths = []
    for number in range(image_count):
        path = directory / f"large_{number}.tif"
        shutil.copy(directory / f"{large[number % len(large)].id}.tif", path)
        paths.append(path)
    return paths, directory / "truth" / f"{large[0].id}.tif"


def main() -> None:
    # hypha-rpc's naive client leaves callbacks behind that complain when it disconnects.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        paths, mask = make_images(scratch)
        with running_canned_service(mask, scratch) as endpoint:
            uvloop.run(measure(endpoint, paths, scratch)).publish()


if __name__ == "__main__":
    main()
