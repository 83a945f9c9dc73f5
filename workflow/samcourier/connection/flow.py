"""How many calls to keep in flight, from what the service reports about its pipeline. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: Besides the images that a service processes, one is on its way to it and one on its way back.
TRAVELLING = 2

#: The most calls at once, whatever the service accepts: each image in flight is in memory here.
MAX_PARALLEL_CALLS = 64

#: The most images and callers that are believed, whatever the service reports.
MAX_COUNT = 1024

_MAX_IMAGES_PER_S = 1e6


@dataclass(frozen=True)
class ServiceLoad:
    """What an answer or a probe reports; None for what an older service does not report.

    Attributes:
        depth: How many images the service's pipeline needs so that no stage waits.
        caller_images: How many images of this user the service holds, those of all its jobs.
        callers: How many users have images there.
        device_busy: The share of the time in which the service's device worked lately, 0 to 1.
        images_per_s: The images per second that it finished lately, of all users.
    """

    depth: int | None = None
    caller_images: int | None = None
    callers: int | None = None
    device_busy: float | None = None
    images_per_s: float | None = None

    @classmethod
    def of(cls, answer: Any) -> ServiceLoad:
        """Return the counts of an answer; a value that is no plausible count is left out."""
        if not isinstance(answer, dict):
            return cls()
        depth, images, callers = (
            _count(answer.get(name)) for name in ("pipeline_depth", "caller_images", "callers")
        )
        return cls(
            depth or None,
            images,
            callers or None,
            _measured(answer.get("device_busy"), 1.0),
            _measured(answer.get("images_per_s"), _MAX_IMAGES_PER_S),
        )


def calls_at_once(
    depth: int, max_queue: int | None, in_flight: int = 0, caller_images: int | None = None
) -> int:
    """Return how many calls this client should have in flight.

    The jobs of one user share the depth of the pipeline: each keeps its part of the images that the
    service holds of this user, so that all together are as many as one job alone would send.

    Args:
        depth: How many images the pipeline needs.
        max_queue: The places of the service's queue, None if unknown.
        in_flight: The calls of this client now.
        caller_images: The images of this user at the service, None if unknown.
    """
    wanted = min(depth, MAX_PARALLEL_CALLS) + TRAVELLING
    if in_flight and caller_images is not None and caller_images > in_flight:
        wanted = max(math.ceil(wanted * in_flight / caller_images), 1)
    return min(wanted, max_queue or MAX_PARALLEL_CALLS, MAX_PARALLEL_CALLS)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value <= MAX_COUNT else None


def _measured(value: Any, highest: float) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= highest else None
