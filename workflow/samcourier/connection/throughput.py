"""Measured calls and probes -> what a transport can do. Pure: no clock, no I/O.

Of each transport the last few samples count, by their median weighted with bytes: one odd sample
changes nothing, a lasting change is believed after three, and a small probe says little beside
a whole image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

T = TypeVar("T")

KEPT_SAMPLES = 5

#: A rate needs bytes to be a rate: smaller calls only tell the round trip.
RATE_MIN_BYTES = 16 * 1024

#: So many times the rate that was known is a change, not noise.
SURPRISE = 2.0

#: No more than this share of a transfer's time is taken for the round trip.
ROUND_TRIP_MAX_SHARE = 0.75

#: What is known is worth half as much after this long: networks change.
TRUST_HALF_LIFE_S = 120.0

_MIN_SECONDS = 1e-4


@dataclass(frozen=True)
class Payload:
    """One call's bytes: sent, and expected back."""

    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class Transfer:
    """When bytes were under way, in Unix seconds of this machine."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Sample:
    """One measured call or probe: the seconds it would have taken alone, the service's left out."""

    payload: Payload
    send_s: float
    receive_s: float
    #: Waiting in the service, as it says itself.
    queue_s: float = 0.0


class Pace(Struct, frozen=True, forbid_unknown_fields=True):
    """So many bytes took so many seconds one way, the round trip left out."""

    payload_bytes: int
    seconds: float


class Estimate(Struct, frozen=True, forbid_unknown_fields=True):
    """The last samples of one transport, oldest first, and when a pace was last seen."""

    round_trips_s: tuple[float, ...] = ()
    up: tuple[Pace, ...] = ()
    down: tuple[Pace, ...] = ()
    measured_unix_s: float = 0.0

    @property
    def round_trip_s(self) -> float:
        """The shortest of the last; 0 until one was seen, since a rate then includes it."""
        return min(self.round_trips_s, default=0.0)

    @property
    def up_bytes_per_s(self) -> float | None:
        """The rate at which it carries images, None until seen."""
        return _rate(self.up)

    @property
    def down_bytes_per_s(self) -> float | None:
        """The rate at which it carries masks, None until seen."""
        return _rate(self.down)

    @property
    def sample_count(self) -> int:
        """How many samples tell a rate; round trips, where calls are too small to tell one."""
        return max(len(self.up), len(self.down)) or len(self.round_trips_s)


def _rate(paces: tuple[Pace, ...]) -> float | None:
    """Return the median rate of all bytes, None without any."""
    bytes_left = sum(pace.payload_bytes for pace in paces) / 2
    for pace in sorted(paces, key=lambda pace: pace.seconds / pace.payload_bytes):
        bytes_left -= pace.payload_bytes
        if bytes_left <= 0:
            return pace.payload_bytes / pace.seconds
    return None


def learn(estimate: Estimate, sample: Sample, at_unix_s: float) -> Estimate:
    """Return the estimate after one more sample, taken at ``at_unix_s``."""
    total_s = max(sample.send_s + sample.receive_s, _MIN_SECONDS)
    is_small = max(sample.payload.up_bytes, sample.payload.down_bytes) < RATE_MIN_BYTES
    if is_small:
        estimate = replace(estimate, round_trips_s=_kept(estimate.round_trips_s, total_s))
    # A round trip does not make a rate younger.
    keeps_age = is_small and bool(estimate.up or estimate.down)
    # A round trip that was measured long, beside a short transfer, must not leave it no time.
    half_s = min(estimate.round_trip_s, ROUND_TRIP_MAX_SHARE * total_s) / 2
    return replace(
        estimate,
        up=_paced(estimate.up, sample.payload.up_bytes, sample.send_s - half_s),
        down=_paced(estimate.down, sample.payload.down_bytes, sample.receive_s - half_s),
        measured_unix_s=estimate.measured_unix_s if keeps_age else at_unix_s,
    )


def renewed(before: Estimate, after: Estimate) -> Estimate:
    """Return what is known after one more small look at a transport that nobody uses.

    A look that finds it much faster than it was begins anew: what large images once found would
    outweigh it for long.
    """
    rate = before.up_bytes_per_s
    if rate is None or after.up[-1].payload_bytes / after.up[-1].seconds < SURPRISE * rate:
        return after
    return replace(after, up=after.up[-1:], down=after.down[-1:])


def _paced(known: tuple[Pace, ...], payload_bytes: int, seconds: float) -> tuple[Pace, ...]:
    if payload_bytes < RATE_MIN_BYTES:
        return known
    return _kept(known, Pace(payload_bytes, max(seconds, _MIN_SECONDS)))


def _kept(known: tuple[T, ...], new: T) -> tuple[T, ...]:
    return (*known, new)[-KEPT_SAMPLES:]


def alone_s(transfer: Transfer, others: Iterable[Transfer]) -> float:
    """Return the seconds ``transfer`` would have taken without the others beside it.

    Transfers of one link share it evenly, so each instant counts by the number under way: a
    call among three is not taken for one over a link of a third of the rate.
    """
    others = list(others)
    edges = {transfer.start_s, transfer.end_s}
    edges |= {edge for each in others for edge in (each.start_s, each.end_s)}
    inside = sorted(edge for edge in edges if transfer.start_s <= edge <= transfer.end_s)
    seconds = 0.0
    for start_s, end_s in pairwise(inside):
        beside = sum(each.start_s <= start_s and end_s <= each.end_s for each in others)
        seconds += (end_s - start_s) / (1 + beside)
    return seconds


def predict_s(estimate: Estimate, payload: Payload) -> float | None:
    """Return the seconds the payload will travel, None while a rate it needs is unknown."""
    seconds = estimate.round_trip_s
    for payload_bytes, rate in (
        (payload.up_bytes, estimate.up_bytes_per_s),
        (payload.down_bytes, estimate.down_bytes_per_s),
    ):
        if rate is not None:
            seconds += payload_bytes / rate
        elif payload_bytes >= RATE_MIN_BYTES:
            return None
    return seconds


def is_only_looked_at(estimate: Estimate, payload: Payload) -> bool:
    """Tell whether all that is known of a transport comes from far smaller payloads than this."""
    largest_bytes = max((pace.payload_bytes for pace in estimate.up), default=0)
    return 0 < largest_bytes < payload.up_bytes / 2


def trust(estimate: Estimate, now_unix_s: float) -> float:
    """Return how far to rely on an estimate, 0 to 1: less for few samples, less with age."""
    count = estimate.sample_count
    age_s = max(now_unix_s - estimate.measured_unix_s, 0.0)
    return float(count / (count + 1) * 0.5 ** (age_s / TRUST_HALF_LIFE_S))
