"""What happens on the way of one image, as frozen events that each stage reports to a hook.

An image that fails has its attempts and seconds in its log as well, also those of planes that
were cancelled beside the one that failed. A value that a stage returns would be lost with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ..results.image_log import Attempt

Stage = Literal["read", "pack", "unpack", "write", "outputs"]


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Seconds spent on a part of the client's own work."""

    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class TilesKept:
    """So many tiles of a plane were on the disk from an earlier run."""

    count: int


Event = Attempt | TimeSpent | TilesKept
Record = Callable[[Event], None]


@contextmanager
def timed(stage: Stage, record: Record) -> Iterator[None]:
    """Record the seconds that the block takes, also when it fails."""
    start_s = time.perf_counter()
    try:
        yield
    finally:
        record(TimeSpent(stage, time.perf_counter() - start_s))
