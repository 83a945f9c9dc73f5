"""The pipeline of the service in this process: a device that sleeps, many concurrent calls.

busy: with stages after the device that sleep, as 16 cores would do them, how busy is the device?
latency: what does a call take with 2 and with 16 images at the same time, and as a client sends?
memory: what does a process need in which 32 images of 4096 x 4096 wait?

With ``--generate`` (in the environment of micro-sam), ``finish`` is micro-sam's own on this
machine's cores, and its images/s are compared with those of the engine without stages.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from figures import Figures
from in_process import busy_percent, packed_image, segment_all
from staged_engines import (
    AllocatingEngine,
    GenerateEngine,
    SegmentOnly,
    SleepingEngine,
    StageSeconds,
)

from samservice.server.app import Limits, SegmentationService

INFER_S = 0.06
#: As measured for AIS on one core, by the side of the image.
SLEEPS = {1024: StageSeconds(0.01, INFER_S, 0.07), 2048: StageSeconds(0.042, INFER_S, 0.46)}
FINISH_THREADS = 8
BUSY_IMAGES = 200
LATENCY_IMAGES = 64
GENERATE_PX = 2048
GENERATE_IMAGES = 16
ROUNDS = 5
MEMORY_PX = 4096
MEMORY_IMAGES = 32


def measure_busy(figures: Figures) -> None:
    """Add the device's busy share with images as a client sends them, and one at a time."""
    images = [packed_image(64)]
    for size_px, seconds in SLEEPS.items():
        for name, count, in_flight in (("pipeline", BUSY_IMAGES, None), ("one_at_a_time", 20, 1)):
            engine = SleepingEngine(seconds)
            service = SegmentationService(engine, Limits(finish_threads=FINISH_THREADS))
            calls = asyncio.run(segment_all(service, images, count, in_flight))
            service.close()
            label = f"busy_{size_px}_{name}"
            figures.add(label, busy_percent(engine.device_spans), "%")
            figures.add(f"{label}_rate", calls.images_per_s, "images/s")
            figures.publish_last(2)


def measure_latency(figures: Figures) -> None:
    """Add the median seconds of a call by the number of calls at the same time."""
    images = [packed_image(64)]
    for size_px, seconds in SLEEPS.items():
        for in_flight in (2, 16, None):
            service = SegmentationService(
                SleepingEngine(seconds), Limits(finish_threads=FINISH_THREADS)
            )
            calls = asyncio.run(segment_all(service, images, LATENCY_IMAGES, in_flight))
            service.close()
            label = f"latency_{size_px}_{in_flight or 'client'}"
            figures.add(label, statistics.median(calls.latencies_s), "s")
            figures.publish_last(1)


def measure_generate(figures: Figures) -> None:
    """Add images/s with and without stages, each round one after the other."""
    images = [packed_image(GENERATE_PX, seed) for seed in range(4)]
    engine = GenerateEngine(StageSeconds(0.0, INFER_S, 0.0))
    engine.draw_maps(GENERATE_PX)
    services: dict[str, tuple[Any, int | None]] = {
        "one_at_a_time": (SegmentOnly(engine), 1),
        "segment_only": (SegmentOnly(engine), None),
        "stages": (engine, None),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, (served, in_flight) in services.items():
            service = SegmentationService(served)
            calls = asyncio.run(segment_all(service, images, GENERATE_IMAGES, in_flight))
            service.close()
            rates[name].append(calls.images_per_s)
    for name, values in rates.items():
        figures.add(f"generate_{GENERATE_PX}_{name}", statistics.median(values), "images/s")
    for name in ("one_at_a_time", "segment_only"):
        ratios = [new / old for new, old in zip(rates["stages"], rates[name], strict=True)]
        figures.add(f"generate_{GENERATE_PX}_gain_over_{name}", statistics.median(ratios), "x")
    figures.details["generate_rates"] = dict(rates)
    figures.publish_last(5)


def measure_memory(figures: Figures, with_generate: bool) -> None:
    """Add the peak of a process of its own in which all images wait, and its bound."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        before, peak, declared = pool.apply(_waiting_images_memory, (with_generate,))
    kind = "generate" if with_generate else "allocated"
    figures.add(f"memory_{kind}_before", before / 2**20, "MiB")
    figures.add(f"memory_{kind}_peak", peak / 2**20, "MiB")
    figures.add(f"memory_{kind}_bound", (before + declared) / 2**20, "MiB")
    figures.publish_last(3)


def _waiting_images_memory(with_generate: bool) -> tuple[int, int, int]:
    """Return resident bytes before the images, their peak, and the bytes that the limits declare.

    The images come from two callers, since one may hold three quarters of the queue at most.
    """
    seconds = StageSeconds(0.0, INFER_S, 0.0 if with_generate else 0.46)
    engine = (GenerateEngine if with_generate else AllocatingEngine)(seconds)
    if isinstance(engine, GenerateEngine):
        engine.draw_maps(MEMORY_PX)
    service = SegmentationService(engine, Limits(finish_threads=FINISH_THREADS))
    before = _process_bytes("VmRSS")
    # Drawing the images and the maps has a peak of its own.
    Path("/proc/self/clear_refs").write_text("5")

    async def segment(number: int) -> None:
        caller = {"user": {"id": f"caller {number % 2}"}}
        await service.segment_all(packed_image(MEMORY_PX, number), context=caller)

    async def segment_together() -> dict[str, Any]:
        await asyncio.gather(*(segment(number) for number in range(MEMORY_IMAGES)))
        return await service.describe()

    limits = asyncio.run(segment_together())["limits"]
    service.close()
    declared = limits["max_queue_bytes"] + limits["max_working_bytes"]
    return before, _process_bytes("VmHWM"), declared


def _process_bytes(name: str) -> int:
    """Return a size of this process as Linux counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status has no {name}, expected Linux")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generate", action="store_true", help="finish is micro-sam's own")
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    figures = Figures("pipeline-generate" if options.generate else "pipeline")
    if options.generate:
        measure_generate(figures)
    else:
        measure_busy(figures)
        measure_latency(figures)
    if not options.skip_memory:
        measure_memory(figures, options.generate)


if __name__ == "__main__":
    main()
