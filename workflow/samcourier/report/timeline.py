"""Count the calls of a run by transport over time, and compare predicted with measured times."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..evaluation.transport_changes import Switch
from ..results.image_log import ImageLog
from ..results.timestamps import parse_time
from .transport_summary import busy_periods, mb_per_s

#: The time axis leaves out longer pauses, such as those between two runs of a dataset.
LONGEST_PAUSE_S = 30.0
MAX_BINS = 96
MAX_POINTS = 1500


@dataclass(frozen=True)
class Clock:
    """Converts Unix seconds to seconds since the start of the run, without long pauses.

    ``begins_s`` and ``ends_s`` are the begins and ends, in Unix seconds, of the periods in which
    images were processed.
    """

    begins_s: tuple[float, ...]
    ends_s: tuple[float, ...]

    @property
    def pause_count(self) -> int:
        """Number of pauses that the time axis leaves out."""
        return max(len(self.begins_s) - 1, 0)

    @property
    def total_s(self) -> float:
        """Length of the time axis in seconds."""
        return sum(end - begin for begin, end in zip(self.begins_s, self.ends_s, strict=True))

    def since_start_s(self, unix_s: float) -> float:
        """Return the seconds since the start; every moment of a pause has the same value."""
        at = bisect_right(self.begins_s, unix_s) - 1
        if at < 0:
            return 0.0
        before_s = sum(self.ends_s[number] - self.begins_s[number] for number in range(at))
        return before_s + min(unix_s, self.ends_s[at]) - self.begins_s[at]


def run_clock(logs: Iterable[ImageLog]) -> Clock:
    """Return the clock of a run, from the times at which its images were processed."""
    periods = busy_periods((log for log in logs if not log.reused), LONGEST_PAUSE_S)
    return Clock(tuple(begin_s for begin_s, _ in periods), tuple(end_s for _, end_s in periods))


@dataclass(frozen=True)
class Timeline:
    """The calls of each transport in bins of ``bin_s`` seconds; a call counts when it ends.

    Each list has one value per bin. ``calls`` and ``failed`` are the numbers of successful and
    failed calls, ``mb_s`` is their median throughput in MB/s, None in a bin without a measurement.
    """

    bin_s: float
    calls: dict[str, list[int]]
    failed: dict[str, list[int]]
    mb_s: dict[str, list[float | None]]

    @property
    def bin_count(self) -> int:
        """Number of bins."""
        return len(next(iter(self.calls.values()), []))


def calls_over_time(logs: Sequence[ImageLog], clock: Clock) -> Timeline:
    """Return the calls of a run over time, in at most :data:`MAX_BINS` bins."""
    attempts = [attempt for log in logs for attempt in log.attempts]
    bin_s = round_bin_s(clock.total_s / MAX_BINS)
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
    """Return a round number of seconds that is at least ``least_s`` and at least 0.1."""
    for bin_s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600):
        if bin_s >= least_s:
            return bin_s
    return 3600.0 * math.ceil(least_s / 3600)


@dataclass(frozen=True)
class Mark:
    """A switch to ``transport``, ``at_s`` seconds after the start of the run."""

    at_s: float
    transport: str


def switch_marks(switches: Iterable[Switch], clock: Clock, max_count: int = 40) -> list[Mark]:
    """Return the switches during the run, or an even selection of at most ``max_count``."""
    if not clock.begins_s:
        return []
    found = [
        Mark(clock.since_start_s(switch.at_unix_s), switch.to_transport)
        for switch in switches
        if clock.begins_s[0] <= switch.at_unix_s <= clock.ends_s[-1]
    ]
    return found[:: -(-len(found) // max_count)] if found else []


@dataclass(frozen=True)
class Prediction:
    """The predicted and the measured transfer time of one call, in seconds.

    Both are times without the calls that ran at the same time.
    """

    transport: str
    predicted_s: float
    measured_s: float


def predictions(logs: Iterable[ImageLog]) -> list[Prediction]:
    """Return the successful calls whose predicted and measured times are known."""
    return [
        Prediction(attempt.transport, attempt.predicted_s, attempt.travel_alone_s)
        for log in logs
        for attempt in log.attempts
        if attempt.outcome == "ok" and attempt.predicted_s and attempt.travel_alone_s
    ]


def prediction_quality(calls: Sequence[Prediction]) -> str | None:
    """Return a sentence that says how good the predictions were, None without predictions."""
    if not calls:
        return None
    ratios = [each.measured_s / each.predicted_s for each in calls]
    near = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return (
        f"For {near:.0%} of {len(calls):,} calls, the transfer took between half and twice the"
        " predicted time, without the delay by simultaneous calls;"
        f" the median call took {statistics.median(ratios):.2f} times as long as predicted."
    )
