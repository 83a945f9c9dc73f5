"""Calls of the service's methods in this process, without a transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array
from samservice.server.app import SegmentationService

#: A client sends so many images more than ``describe`` has as ``in_parallel``.
MORE_THAN_DEPTH = 2


@dataclass(frozen=True)
class Calls:
    """What a number of calls took.

    Attributes:
        wall_s: Seconds from the first call to the last answer.
        latencies_s: Seconds of each call.
    """

    wall_s: float
    latencies_s: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s


def noisy_discs(size_px: int, seed: int = 0) -> np.ndarray:
    """Return a (Y, X) uint16 square with bright discs; micro-sam does not run for noise alone."""
    pixels = np.random.default_rng(seed).integers(100, 4000, (size_px, size_px), np.uint16)
    from_centre = np.arange(size_px) % 64 - 32
    pixels[from_centre[:, None] ** 2 + from_centre**2 < 300] += 20_000
    return pixels


def packed_image(size_px: int, seed: int = 0) -> dict[str, Any]:
    """Return :func:`noisy_discs` packed."""
    return pack_array(noisy_discs(size_px, seed), FAST_IMAGE_CODEC)


async def segment_all(
    service: SegmentationService,
    images: Sequence[dict[str, Any]],
    image_count: int,
    in_flight: int | None = None,
    parameters: dict[str, Any] | None = None,
) -> Calls:
    """Segment ``image_count`` images, of ``images`` in turn, ``in_flight`` at the same time.

    None for as many as a client sends: the depth of the pipeline as each answer has it, and more.
    """
    latencies_s: list[float] = []
    target = in_flight or MORE_THAN_DEPTH + 1

    async def one(number: int) -> None:
        nonlocal target
        begin_s = time.monotonic()
        answer = await service.segment_all(images[number % len(images)], **(parameters or {}))
        latencies_s.append(time.monotonic() - begin_s)
        if in_flight is None:
            target = answer["pipeline_depth"] + MORE_THAN_DEPTH

    begin_s = time.monotonic()
    running: set[asyncio.Task[None]] = set()
    started = 0
    while started < image_count or running:
        while started < image_count and len(running) < target:
            running.add(asyncio.ensure_future(one(started)))
            started += 1
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    return Calls(time.monotonic() - begin_s, tuple(latencies_s))


def busy_percent(spans: Sequence[tuple[float, float]]) -> float:
    """Return the device's seconds over the time from the first begin to the last end, in %."""
    return 100 * sum(end - begin for begin, end in spans) / (spans[-1][1] - spans[0][0])
