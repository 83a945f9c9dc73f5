"""Frozen events that the stages of one image report to a hook.

The log of a failed image also has its attempts and seconds, with those of the planes that were
cancelled when another plane failed. A stage that fails returns no value, so a hook is needed.
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
    """Number of a plane's tiles that an earlier run left on disk."""

    count: int


Event = Attempt | TimeSpent | TilesKept
Record = Callable[[Event], None]


@contextmanager
def timed(stage: Stage, record: Record) -> Iterator[None]:
    """Record the seconds that the block takes, even if it raises."""
    start_s = time.perf_counter()
    try:
        yield
    finally:
        record(TimeSpent(stage, time.perf_counter() - start_s))
