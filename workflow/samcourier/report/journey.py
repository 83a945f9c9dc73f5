"""How the calls went over time: which transport, how fast, as predicted or not. Pure."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..evaluation.transport_changes import Switch
from ..results.image_log import ImageLog
from ..results.timestamps import parse_time
from .travel import mb_per_s, stretches

#: Pauses longer than this, as between two runs of a dataset, are left out of the time axis.
LONGEST_PAUSE_S = 30.0
MOST_BINS = 96
MOST_POINTS = 1500


@dataclass(frozen=True)
class Clock:
    """Moments in Unix seconds -> seconds from the start of the run, long pauses left out.

    ``begins_s`` and ``ends_s`` are those of the stretches in which images were under way.
    """

    begins_s: tuple[float, ...]
    ends_s: tuple[float, ...]

    @property
    def pause_count(self) -> int:
        return max(len(self.begins_s) - 1, 0)

    @property
    def total_s(self) -> float:
        return sum(end - begin for begin, end in zip(self.begins_s, self.ends_s, strict=True))

    def since_start_s(self, unix_s: float) -> float:
        """Return the seconds; a moment within a pause is that of the pause's end."""
        at = bisect_right(self.begins_s, unix_s) - 1
        if at < 0:
            return 0.0
        before_s = sum(self.ends_s[number] - self.begins_s[number] for number in range(at))
        return before_s + min(unix_s, self.ends_s[at]) - self.begins_s[at]


def clock_of(logs: Iterable[ImageLog]) -> Clock:
    """Return the clock of a run, by when its images were under way."""
    spans = stretches((log for log in logs if not log.reused), LONGEST_PAUSE_S)
    return Clock(tuple(begin_s for begin_s, _ in spans), tuple(end_s for _, end_s in spans))


@dataclass(frozen=True)
class Timeline:
    """Calls by transport in bins of ``bin_s`` seconds, by their end.

    ``calls`` and ``failed`` count them, ``mb_s`` is the median rate of those that tell, None
    where none does; one value a bin.
    """

    bin_s: float
    calls: dict[str, list[int]]
    failed: dict[str, list[int]]
    mb_s: dict[str, list[float | None]]

    @property
    def bin_count(self) -> int:
        return len(next(iter(self.calls.values()), []))


def timeline(logs: Sequence[ImageLog], clock: Clock) -> Timeline:
    """Return the calls of a run over its time, in at most :data:`MOST_BINS` bins."""
    attempts = [attempt for log in logs for attempt in log.attempts]
    bin_s = round_bin_s(clock.total_s / MOST_BINS)
    count = max(math.ceil(clock.total_s / bin_s), 1)
    names: list[str] = sorted({attempt.transport for attempt in attempts})
    calls = {name: [0] * count for name in names}
    failed = {name: [0] * count for name in names}
    rates: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name in names}
    for attempt in attempts:
        end_s = parse_time(attempt.started_at).timestamp() + attempt.seconds.total
        number = min(int(clock.since_start_s(end_s) / bin_s), count - 1)
        (calls if attempt.outcome == "ok" else failed)[attempt.transport][number] += 1
        if (rate := mb_per_s(attempt)) is not None:
            rates[attempt.transport][number].append(rate)
    mb_s = {
        name: [statistics.median(each) if each else None for each in of_bins]
        for name, of_bins in rates.items()
    }
    return Timeline(bin_s, calls, failed, mb_s)


def round_bin_s(least_s: float) -> float:
    """Return a round number of seconds, at least ``least_s`` and a tenth."""
    for bin_s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600):
        if bin_s >= least_s:
            return bin_s
    return 3600.0 * math.ceil(least_s / 3600)


@dataclass(frozen=True)
class Mark:
    """A change of transport: when, in seconds from the start, and to which."""

    at_s: float
    transport: str


def marks(switches: Iterable[Switch], clock: Clock, most: int = 40) -> list[Mark]:
    """Return the switches that fall into the run, evenly spread where many."""
    if not clock.begins_s:
        return []
    found = [
        Mark(clock.since_start_s(switch.at_unix_s), switch.to_transport)
        for switch in switches
        if clock.begins_s[0] <= switch.at_unix_s <= clock.ends_s[-1]
    ]
    return found[:: -(-len(found) // most)] if found else []


@dataclass(frozen=True)
class Predicted:
    """How long a call's bytes were expected to travel alone, and how long they did, in seconds."""

    transport: str
    predicted_s: float
    measured_s: float


def predicted_calls(logs: Iterable[ImageLog]) -> list[Predicted]:
    """Return the calls that came back and of which both are known."""
    return [
        Predicted(attempt.transport, attempt.predicted_s, attempt.travel_alone_s)
        for log in logs
        for attempt in log.attempts
        if attempt.outcome == "ok" and attempt.predicted_s and attempt.travel_alone_s
    ]


def prediction_quality(calls: Sequence[Predicted]) -> str | None:
    """Return how near the predictions came, in a sentence; None without any."""
    if not calls:
        return None
    ratios = [each.measured_s / each.predicted_s for each in calls]
    near = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return (
        f"Of {len(calls):,} calls {near:.0%} travelled within half to twice the predicted time,"
        " less what calls beside them took;"
        f" the median took {statistics.median(ratios):.2f} times as long as predicted."
    )
