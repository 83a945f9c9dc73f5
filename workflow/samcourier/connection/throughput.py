"""Estimate the throughput of a transport from measured calls and probes. Pure: no clock, no I/O.

Each estimate is the median of the last few samples, weighted with their bytes: one odd sample
changes nothing, a lasting change counts after three, and a small probe has little weight beside a
whole image.
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

#: Calls with fewer bytes measure the round trip only, not a rate.
RATE_MIN_BYTES = 16 * 1024

#: A rate of at least this multiple of the known rate is a change, not noise.
CHANGE_FACTOR = 2.0

#: At most this share of a transfer's time is attributed to the round trip.
ROUND_TRIP_MAX_SHARE = 0.75

#: The trust in a measurement halves in this time: networks change.
TRUST_HALF_LIFE_S = 120.0

_MIN_SECONDS = 1e-4


@dataclass(frozen=True)
class Payload:
    """The bytes of one call: those sent, and those expected of the answer."""

    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class Transfer:
    """The start and end of a transfer, in Unix seconds of this machine."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Sample:
    """One measured call or probe: the seconds of each direction, without the service's own."""

    payload: Payload
    send_s: float
    receive_s: float
    #: The wait in the service's queue, as the service reports it.
    queue_s: float = 0.0
    #: Seconds of the service's stages, None where it does not report them.
    prepare_s: float | None = None
    infer_s: float | None = None
    finish_s: float | None = None


class Pace(Struct, frozen=True, forbid_unknown_fields=True):
    """One transfer: its bytes, and its seconds in one direction without the round trip."""

    payload_bytes: int
    seconds: float


class Estimate(Struct, frozen=True, forbid_unknown_fields=True):
    """The last samples of one transport, oldest first, and when a rate was last measured."""

    round_trips_s: tuple[float, ...] = ()
    up: tuple[Pace, ...] = ()
    down: tuple[Pace, ...] = ()
    measured_unix_s: float = 0.0

    @property
    def round_trip_s(self) -> float:
        """The shortest kept round trip; 0 until one is measured, since a rate then includes it."""
        return min(self.round_trips_s, default=0.0)

    @property
    def up_bytes_per_s(self) -> float | None:
        """The upload rate (images), None until measured."""
        return _rate(self.up)

    @property
    def down_bytes_per_s(self) -> float | None:
        """The download rate (masks), None until measured."""
        return _rate(self.down)

    @property
    def sample_count(self) -> int:
        """How many samples of a rate there are; of the round trip if all calls are small."""
        return max(len(self.up), len(self.down)) or len(self.round_trips_s)


def _rate(paces: tuple[Pace, ...]) -> float | None:
    """Return the median rate in bytes per second, weighted with bytes; None without any."""
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
        estimate = replace(estimate, round_trips_s=_append(estimate.round_trips_s, total_s))
    # A round trip does not renew the age of a rate.
    keeps_age = is_small and bool(estimate.up or estimate.down)
    # A long round trip must leave a short transfer some time.
    half_s = min(estimate.round_trip_s, ROUND_TRIP_MAX_SHARE * total_s) / 2
    return replace(
        estimate,
        up=_append_pace(estimate.up, sample.payload.up_bytes, sample.send_s - half_s),
        down=_append_pace(estimate.down, sample.payload.down_bytes, sample.receive_s - half_s),
        measured_unix_s=estimate.measured_unix_s if keeps_age else at_unix_s,
    )


def merge_probe(before: Estimate, after: Estimate) -> Estimate:
    """Return the estimate after one more small probe of a transport that is not in use.

    ``before`` and ``after`` are the estimates without and with the probe. When the probe is much
    faster than before, only the probe counts: the samples of earlier large images would outweigh
    it for long.
    """
    rate = before.up_bytes_per_s
    if rate is None or after.up[-1].payload_bytes / after.up[-1].seconds < CHANGE_FACTOR * rate:
        return after
    return replace(after, up=after.up[-1:], down=after.down[-1:])


def _append_pace(known: tuple[Pace, ...], payload_bytes: int, seconds: float) -> tuple[Pace, ...]:
    if payload_bytes < RATE_MIN_BYTES:
        return known
    return _append(known, Pace(payload_bytes, max(seconds, _MIN_SECONDS)))


def _append(known: tuple[T, ...], new: T) -> tuple[T, ...]:
    return (*known, new)[-KEPT_SAMPLES:]


def alone_s(transfer: Transfer, others: Iterable[Transfer]) -> float:
    """Return the seconds that ``transfer`` would have taken without the ``others``.

    Simultaneous transfers share a link evenly, so each instant is divided by their number. Without
    this, a call among three would be measured at a third of the rate of the link.
    """
    others = list(others)
    edges = {transfer.start_s, transfer.end_s}
    edges |= {edge for each in others for edge in (each.start_s, each.end_s)}
    inside = sorted(edge for edge in edges if transfer.start_s <= edge <= transfer.end_s)
    seconds = 0.0
    for start_s, end_s in pairwise(inside):
        simultaneous = sum(each.start_s <= start_s and end_s <= each.end_s for each in others)
        seconds += (end_s - start_s) / (1 + simultaneous)
    return seconds


def predict_s(estimate: Estimate, payload: Payload) -> float | None:
    """Return the transfer seconds of a payload, None while a rate it needs is unknown."""
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


def is_only_probed(estimate: Estimate, payload: Payload) -> bool:
    """Tell whether all samples of a transport have less than half of this payload's bytes."""
    largest_bytes = max((pace.payload_bytes for pace in estimate.up), default=0)
    return 0 < largest_bytes < payload.up_bytes / 2


def trust(estimate: Estimate, now_unix_s: float) -> float:
    """Return the trust in an estimate, 0 to 1: less for few samples, less with age."""
    count = estimate.sample_count
    age_s = max(now_unix_s - estimate.measured_unix_s, 0.0)
    return float(count / (count + 1) * 0.5 ** (age_s / TRUST_HALF_LIFE_S))
