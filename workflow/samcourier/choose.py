"""Measurements -> ranking of the transports, with a reason in words. Pure: no clock, no I/O.

Predicted seconds for *this* payload are its round trip plus its bytes over the rates seen each
way. The transport in use stays unless another one is clearly faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from samservice.wire import FAST_IMAGE_CODEC, SLOW_IMAGE_CODEC

#: Weight of a new sample against what is known: three calls forget most of an old rate.
NEW_SAMPLE_WEIGHT = 0.4

#: Another transport must promise at least this share of the time off, and at least so many
#: seconds, before it is taken.
CLEAR_GAIN = 0.2
CLEAR_GAIN_S = 0.005

#: A rate needs bytes to be a rate: smaller calls only tell the round trip.
RATE_MIN_BYTES = 16 * 1024

SLOW_LINK_BYTES_PER_S = 30e6

_MIN_SECONDS = 1e-4


@dataclass(frozen=True)
class Payload:
    """One call's bytes: sent, and expected back."""

    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class Sample:
    """One measured call or probe, the service's own seconds left out."""

    payload: Payload
    send_s: float
    receive_s: float


@dataclass(frozen=True)
class Estimate:
    """What is known of one transport; rates in bytes per second, None until seen."""

    round_trip_s: float
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    sample_count: int = 0


@dataclass(frozen=True)
class Candidate:
    """One transport as the manager sees it now. ``blocked`` says why it cannot be used."""

    name: str
    estimate: Estimate | None = None
    blocked: str | None = None


@dataclass(frozen=True)
class Choice:
    """A usable transport, the seconds predicted for the payload (None: not measured), and why."""

    name: str
    predicted_s: float | None
    reason: str


def image_codec(up_bytes_per_s: float | None) -> str:
    """Return the codec for images on a link of this rate; the fast one until it is measured.

    Below about 30 MB/s the bytes that Zstandard saves outweigh its slower packing.
    """
    slow = up_bytes_per_s is not None and up_bytes_per_s < SLOW_LINK_BYTES_PER_S
    return SLOW_IMAGE_CODEC if slow else FAST_IMAGE_CODEC


def learn(estimate: Estimate | None, sample: Sample) -> Estimate:
    """Return the estimate after one more sample.

    A first sample that carries bytes leaves the round trip at 0: its rates include it.
    """
    total_s = max(sample.send_s + sample.receive_s, _MIN_SECONDS)
    carries_bytes = max(sample.payload.up_bytes, sample.payload.down_bytes) >= RATE_MIN_BYTES
    if estimate is None:
        estimate = Estimate(round_trip_s=0.0 if carries_bytes else total_s)
    # The smallest total ever seen bounds the round trip from above.
    round_trip_s = min(estimate.round_trip_s, total_s)
    half_s = round_trip_s / 2
    return replace(
        estimate,
        round_trip_s=round_trip_s,
        up_bytes_per_s=_blend(
            estimate.up_bytes_per_s, sample.payload.up_bytes, sample.send_s - half_s
        ),
        down_bytes_per_s=_blend(
            estimate.down_bytes_per_s, sample.payload.down_bytes, sample.receive_s - half_s
        ),
        sample_count=estimate.sample_count + 1,
    )


def _blend(known_per_s: float | None, payload_bytes: int, seconds: float) -> float | None:
    if payload_bytes < RATE_MIN_BYTES:
        return known_per_s
    seen_per_s = payload_bytes / max(seconds, _MIN_SECONDS)
    if known_per_s is None:
        return seen_per_s
    # Blending seconds per byte, not bytes per second: times add up, rates do not.
    seconds_per_byte = (1 - NEW_SAMPLE_WEIGHT) / known_per_s + NEW_SAMPLE_WEIGHT / seen_per_s
    return 1 / seconds_per_byte


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


def rank(
    candidates: Sequence[Candidate], payload: Payload, current: str | None = None
) -> list[Choice]:
    """Order the usable transports, best first.

    ``candidates`` come in order of preference, which decides while nothing is measured. The
    ``current`` transport stays first unless another is faster by CLEAR_GAIN. An unmeasured
    transport comes after the measured ones.
    """
    usable = [candidate for candidate in candidates if candidate.blocked is None]
    measured: list[tuple[float, Candidate]] = []
    unmeasured: list[Candidate] = []
    for candidate in usable:
        seconds = predict_s(candidate.estimate, payload) if candidate.estimate else None
        if seconds is None:
            unmeasured.append(candidate)
        else:
            measured.append((seconds, candidate))
    measured.sort(key=lambda pair: pair[0])
    choices = [Choice(c.name, seconds, _why(seconds, c, measured)) for seconds, c in measured]
    choices += [Choice(c.name, None, "not measured yet") for c in unmeasured]
    return _keep_current(choices, current)


def _why(seconds: float, candidate: Candidate, measured: Sequence[tuple[float, Candidate]]) -> str:
    others = [f"{other.name} {s:.3f} s" for s, other in measured if other is not candidate]
    against = f", {', '.join(others)}" if others else ""
    return f"predicted {seconds:.3f} s{against}"


def _keep_current(choices: list[Choice], current: str | None) -> list[Choice]:
    kept = next((choice for choice in choices if choice.name == current), None)
    if kept is None or choices[0] is kept:
        return choices
    best = choices[0]
    if best.predicted_s is not None and (
        kept.predicted_s is None or _is_clear_gain(kept.predicted_s, best.predicted_s)
    ):
        return choices
    kept = replace(kept, reason=f"{kept.reason}; kept, no clear gain elsewhere")
    return [kept, *(choice for choice in choices if choice.name != current)]


def _is_clear_gain(current_s: float, best_s: float) -> bool:
    return current_s - best_s >= max(CLEAR_GAIN * current_s, CLEAR_GAIN_S)
