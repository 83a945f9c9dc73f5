"""The seconds of the pipeline's stages, and the depth that they call for."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The stages of an image, in order.
STAGES = ("prepare", "infer", "finish")

#: How many recent images, and calls of the device, the figures are taken from.
KEPT = 100


@dataclass(frozen=True)
class Workers:
    """How many images each stage works on at once: threads, or the device's largest batch."""

    prepare: int
    infer: int
    finish: int


def interval_s(seconds: Mapping[str, float], workers: Workers) -> float:
    """Return the seconds between two images, which the slowest stage decides.

    ``seconds`` are those of one image in each stage, for ``infer`` its share of the batch.
    """
    return max(
        seconds["prepare"] / workers.prepare,
        seconds["infer"],
        seconds["finish"] / workers.finish,
    )


def depth(seconds: Mapping[str, float], workers: Workers) -> int:
    """Return how many images must be in the pipeline so that its slowest stage never waits.

    By Little's law it is the time of one image through all stages over the time between two
    images. The other images of a full batch come on top.
    """
    between_s = interval_s(seconds, workers)
    if between_s <= 0:
        return len(STAGES)
    # Rounding must not add an image.
    return math.ceil(sum(seconds.values()) / between_s - 1e-9) + workers.infer - 1


@dataclass
class StageTimes:
    """The stages of recent images. Threads of all stages write it."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seconds: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=KEPT) for stage in STAGES}
    )
    #: (begin, end) of each call of the device, in seconds of time.monotonic().
    _device: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    #: Ends of images.
    _ends_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, stage: str, seconds: float) -> None:
        """Note the seconds of one image in ``stage``, its share of the batch for ``infer``."""
        with self._lock:
            self._seconds[stage].append(seconds)

    def note_device(self, begin_s: float, end_s: float) -> None:
        """Note one call of the device, by time.monotonic()."""
        with self._lock:
            self._device.append((begin_s, end_s))

    def note_end(self, now_s: float) -> None:
        """Note the end of an image, by time.monotonic()."""
        with self._lock:
            self._ends_s.append(now_s)

    def medians(self) -> dict[str, float] | None:
        """Return the median seconds of each stage, None before an image went through all."""
        with self._lock:
            if not all(self._seconds.values()):
                return None
            return {stage: statistics.median(self._seconds[stage]) for stage in STAGES}

    def device_busy(self) -> float | None:
        """Return the device's seconds of work over the time from the first begin to the last end.

        None before the first call.
        """
        with self._lock:
            if not self._device:
                return None
            worked_s = sum(end - begin for begin, end in self._device)
            whole_s = self._device[-1][1] - self._device[0][0]
        return worked_s / whole_s if whole_s > 0 else None

    def images_per_s(self) -> float | None:
        """Return the throughput of the recent images, None before the second."""
        with self._lock:
            if len(self._ends_s) < 2:
                return None
            whole_s = self._ends_s[-1] - self._ends_s[0]
            return (len(self._ends_s) - 1) / whole_s if whole_s > 0 else None

    def describe(self) -> dict[str, Any]:
        """Return the figures for the service's ``describe``; None for what is not measured."""
        return {"seconds": self.medians(), **self.throughput()}

    def throughput(self) -> dict[str, float | None]:
        """Return the figures for answers and probes; None for what is not measured."""
        return {"device_busy": self.device_busy(), "images_per_s": self.images_per_s()}
