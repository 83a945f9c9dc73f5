"""Choose the replica of a service that takes the next call. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """The load of one replica; seconds are None until measured.

    ``limit`` is how many calls it may hold at once, ``in_parallel`` how many it processes at once.
    """

    travel_s: float | None
    service_s: float | None
    in_flight: int
    limit: int
    in_parallel: int = 1


def next_replica(loads: Sequence[Load]) -> int | None:
    """Return the index of the replica predicted to answer one more call first.

    The result is None when all are full. A replica without measurements is preferred while it is
    idle, so that it gets some, and is last as soon as it holds a call of unknown duration.
    """
    free = [index for index, load in enumerate(loads) if load.in_flight < load.limit]
    return min(free, key=lambda index: _predicted_s(loads[index]), default=None)


def _predicted_s(load: Load) -> tuple[float, int]:
    if load.travel_s is None or load.service_s is None:
        return (float("inf") if load.in_flight else 0.0), load.in_flight
    rounds = load.in_flight // load.in_parallel + 1
    return load.travel_s + rounds * load.service_s, load.in_flight
