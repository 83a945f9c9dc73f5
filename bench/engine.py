"""micro-sam with vit_b on a GPU: images/s and the device's busy share.

device: encoder and decoder alone, by the size of the batch.
micro_sam: one image after the other, as micro-sam's own call does it.
service: the service's pipeline in this process, by the largest batch.
end_to_end: image files to masks by ``samcourier segment``, over each transport.

Without a GPU, the device is a sleep of 60 ms an image, whatever its size, and there is no bfloat16;
micro-sam's own call is then its ``generate`` after the sleep. Everything else is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import uvloop
from busy import segment
from canned_service import running_service, serve_with_hypha
from figures import Figures
from hypha_rpc import connect_to_server
from in_process import busy_percent, noisy_discs, packed_image, segment_all
from staged_engines import GenerateEngine, StageSeconds
from vit_b import VitBEngine, write_random_checkpoint

from samcourier.transports import Endpoint
from samservice.contract.wire import unpack_array
from samservice.server.app import Limits, SegmentationService

SIZES_PX = (512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
DTYPES = ("float32", "bfloat16")
TRANSPORTS = ("websocket", "http", "webrtc")
SLEEP_S = 0.06
SLEEP = "sleep"

BenchEngine = VitBEngine | GenerateEngine


def build(dtype: str, checkpoint: Path, sizes_px: Sequence[int]) -> BenchEngine:
    """Return the engine with one of DTYPES on the GPU, or with a sleep."""
    engine: BenchEngine
    if dtype == SLEEP:
        engine = GenerateEngine(StageSeconds(0.0, SLEEP_S, 0.0), max(BATCHES))
    else:
        engine = VitBEngine(checkpoint, "cuda", dtype)
    for size_px in sizes_px:
        engine.draw_maps(size_px)
    return engine


def add_rate(
    figures: Figures, name: str, engine: BenchEngine, count: int, work: Callable[[], object]
) -> None:
    """Add images/s of ``work``, which handles ``count`` images, and the device's busy share."""
    engine.device_spans.clear()
    begin_s = time.monotonic()
    work()
    figures.add(name, count / (time.monotonic() - begin_s), "images/s")
    figures.add(f"{name}_busy", busy_percent(engine.device_spans), "%")
    figures.publish_last(2)


def measure_in_process(
    figures: Figures, engine: BenchEngine, dtype: str, size_px: int, count: int
) -> None:
    """Add the rates of one size without a transport."""
    packed = packed_image(size_px)
    image = unpack_array(packed, 1 << 30)
    label = f"{size_px}_{dtype}"
    if isinstance(engine, VitBEngine):
        prepared = engine.prepare(image, "YX", {})
        assert not isinstance(prepared, np.ndarray)
        for batch in BATCHES:
            engine.infer_together(prepared, batch)
            calls = max(count // batch, 1)

            def infer(calls: int = calls, batch: int = batch) -> None:
                for _ in range(calls):
                    engine.infer_together(prepared, batch)

            add_rate(figures, f"device_{label}_batch_{batch}", engine, calls * batch, infer)
        largest = engine.describe()["max_batch"]
        one = engine.segment_by_micro_sam
    else:
        largest = max(BATCHES)

        def one(image: np.ndarray) -> np.ndarray:
            return engine.segment(image, "YX", {})

    one(image)
    add_rate(
        figures, f"micro_sam_{label}", engine, count, lambda: [one(image) for _ in range(count)]
    )
    for batch in BATCHES:
        if batch > largest:
            print(f"service_{label}_batch_{batch}: the engine has batches of {largest} at most")
            continue
        service = SegmentationService(engine, Limits(max_batch=batch))
        add_rate(
            *(figures, f"service_{label}_batch_{batch}", engine, count),
            lambda service=service: asyncio.run(segment_all(service, [packed], count)),
        )
        service.close()


async def describe(endpoint: Endpoint) -> dict[str, Any]:
    """Return what the service tells about itself."""
    server = await connect_to_server({"server_url": endpoint.server_url, "token": endpoint.token})
    try:
        return await (await server.get_service(endpoint.service_id)).describe()
    finally:
        await server.disconnect()


def measure_end_to_end(
    figures: Figures, dtype: str, checkpoint: Path, size_px: int, count: int
) -> None:
    """Add the rate of the whole command over each transport, its start and masks included."""
    for transport in TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
            scratch = Path(name)
            rows = ["image\tpath"]
            for number in range(count):
                path = scratch / f"{number}.tif"
                tifffile.imwrite(path, noisy_discs(size_px, number))
                rows.append(f"i{number}\t{path}")
            (scratch / "sheet.tsv").write_text("\n".join([*rows, ""]))
            found = scratch / "service.json"
            command = [sys.executable, __file__, "--serve", found, "--dtype", dtype]
            command += ["--checkpoint", checkpoint, "--size", size_px]
            with running_service(command, scratch) as endpoint:
                whole_s = segment(
                    endpoint, scratch / "sheet.tsv", scratch, "--transport", transport
                )
                pipeline = uvloop.run(describe(endpoint))["pipeline"]
        label = f"end_to_end_{size_px}_{dtype}_{transport}"
        figures.add(label, count / whole_s, "images/s")
        figures.add(f"{label}_busy", 100 * pipeline["device_busy"], "%")
        figures.publish_last(2)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, action="append", help="side in pixels, may be repeated")
    parser.add_argument("--images", type=int, help="images of each figure")
    parser.add_argument("--dtype", choices=(*DTYPES, SLEEP), action="append")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/bench/vit_b_random.pt"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes_px = options.size or SIZES_PX
    if options.serve:
        engine = build(options.dtype[0], options.checkpoint, sizes_px)
        uvloop.run(serve_with_hypha(engine, options.serve))
        return
    dtypes = options.dtype or (DTYPES if has_gpu() else (SLEEP,))
    if SLEEP in dtypes:
        print(f"No GPU: the device stage is a sleep of {1000 * SLEEP_S:g} ms an image.")
    elif not options.checkpoint.exists():
        options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(options.checkpoint)
    count = options.images or (24 if SLEEP in dtypes else 100)
    figures = Figures("engine")
    for dtype in dtypes:
        engine = build(dtype, options.checkpoint, sizes_px)
        figures.details[f"described_{dtype}"] = engine.describe()
        for size_px in sizes_px:
            measure_in_process(figures, engine, dtype, size_px, count)
        del engine
        for size_px in sizes_px:
            measure_end_to_end(figures, dtype, options.checkpoint, size_px, count)


if __name__ == "__main__":
    main()
