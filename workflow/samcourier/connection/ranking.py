"""Rank the transports by their measurements, with a reason for the log. Pure: no clock, no I/O.

The predicted seconds of a payload are the round trip plus its bytes over the rate in each
direction. The transport in use stays unless another one is clearly faster; how clearly depends on
the trust in the measurements of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from samservice.contract.wire import FAST_IMAGE_CODEC, SLOW_IMAGE_CODEC

from .throughput import Estimate, Payload, is_only_probed, predict_s, trust

#: Another transport must be predicted to save at least this share of the time, and at least this
#: many seconds, to replace the one in use: this share at full trust in both, more at less trust.
CLEAR_GAIN = 0.2
CLEAR_GAIN_S = 0.005

#: A switch needs this many samples of both, unless the other is predicted to be twice as fast and
#: to save more than ``WAIT_MAX_S`` per image.
SWITCH_SAMPLES = 3
WAIT_MAX_S = 0.2

SLOW_LINK_BYTES_PER_S = 30e6

#: A probe may make a fast transport seem up to this many times slower than it is with images:
#: little of the probe's time depends on its bytes, and a busy machine adds to it.
PROBE_SLOWDOWN_MAX = 3.0

_UNMEASURED = "not measured yet"


@dataclass(frozen=True)
class Candidate:
    """One transport to rank. ``blocked`` says why it cannot be used, None if it can."""

    name: str
    estimate: Estimate = field(default_factory=Estimate)
    blocked: str | None = None


@dataclass(frozen=True)
class Choice:
    """A usable transport, the seconds predicted (None: not measured), and the reason for it."""

    name: str
    predicted_s: float | None
    reason: str


def image_codec(up_bytes_per_s: float | None) -> str:
    """Return the codec for images at this upload rate; the fast one until it is measured.

    Below about 30 MB/s the bytes that Zstandard saves outweigh its slower compression.
    """
    slow = up_bytes_per_s is not None and up_bytes_per_s < SLOW_LINK_BYTES_PER_S
    return SLOW_IMAGE_CODEC if slow else FAST_IMAGE_CODEC


def rank(
    candidates: Sequence[Candidate],
    payload: Payload,
    current: str | None = None,
    now_unix_s: float = 0.0,
) -> list[Choice]:
    """Return the usable transports, best first.

    The ``current`` transport stays first unless another is clearly faster. Unmeasured transports
    come after the measured ones. Every reason also names the other transports that are not
    measured, and those that cannot be used, with the cause.

    Args:
        candidates: All transports in order of preference, which decides while nothing is measured.
        payload: The bytes of the next call.
        current: The name of the transport in use, None if there is none.
        now_unix_s: The time for which the age of a measurement is computed.
    """
    usable = [candidate for candidate in candidates if candidate.blocked is None]
    measured: list[tuple[float, Candidate]] = []
    unmeasured: list[Candidate] = []
    for candidate in usable:
        seconds = predict_s(candidate.estimate, payload) if _is_measured(candidate) else None
        if seconds is None:
            unmeasured.append(candidate)
        else:
            measured.append((seconds, candidate))
    measured.sort(key=lambda pair: pair[0])
    blocked = "".join(f"; {c.name} {c.blocked}" for c in candidates if c.blocked is not None)

    def unmeasured_besides(chosen: Candidate) -> str:
        return "".join(f"; {c.name} {_UNMEASURED}" for c in unmeasured if c is not chosen)

    choices = [
        Choice(c.name, seconds, _why(seconds, c, measured) + unmeasured_besides(c) + blocked)
        for seconds, c in measured
    ]
    choices += [
        Choice(c.name, None, _UNMEASURED + unmeasured_besides(c) + blocked) for c in unmeasured
    ]
    by_name = {candidate.name: candidate for candidate in usable}
    return _prefer_current(choices, by_name, current, now_unix_s)


def _is_measured(candidate: Candidate) -> bool:
    return candidate.estimate != Estimate()


def _why(seconds: float, candidate: Candidate, measured: Sequence[tuple[float, Candidate]]) -> str:
    others = [f"{other.name} {s:.3f} s" for s, other in measured if other is not candidate]
    against = f", {', '.join(others)}" if others else ""
    return f"predicted {seconds:.3f} s{against}"


def _prefer_current(
    choices: list[Choice],
    candidates: dict[str, Candidate],
    current: str | None,
    now_unix_s: float,
) -> list[Choice]:
    kept = next((choice for choice in choices if choice.name == current), None)
    if kept is None:
        return choices
    better = [
        choice
        for choice in choices
        if choice is not kept
        and _is_reliable_gain(
            kept,
            choice,
            candidates[kept.name].estimate,
            candidates[choice.name].estimate,
            now_unix_s,
        )
    ]
    if better:
        return [better[0], *(choice for choice in choices if choice is not better[0])]
    if choices[0] is not kept:
        kept = replace(kept, reason=f"{kept.reason}; kept, no clear gain elsewhere")
    return [kept, *(choice for choice in choices if choice.name != current)]


def _is_reliable_gain(
    current: Choice, other: Choice, of_current: Estimate, of_other: Estimate, now_unix_s: float
) -> bool:
    """Tell whether a gain is clear enough at the trust in both measurements."""
    if current.predicted_s is not None and other.predicted_s is not None:
        samples = min(of_current.sample_count, of_other.sample_count)
        waiting_costs_s = current.predicted_s - other.predicted_s
        is_urgent = waiting_costs_s > max(WAIT_MAX_S, other.predicted_s)
        if samples < SWITCH_SAMPLES and not is_urgent:
            return False
    trusted = min(trust(of_current, now_unix_s), trust(of_other, now_unix_s))
    return _is_clear_gain(current, other, trusted)


def _is_clear_gain(current: Choice, other: Choice, trusted: float) -> bool:
    if other.predicted_s is None:
        return False
    if current.predicted_s is None:
        return True
    gain_s = current.predicted_s - other.predicted_s
    return gain_s * trusted >= CLEAR_GAIN * current.predicted_s and gain_s >= CLEAR_GAIN_S


def promising(
    candidates: Sequence[Candidate], payload: Payload, current: str, now_unix_s: float
) -> list[str]:
    """Return the transports that would be used if their measurements were fully trusted.

    They are worth a trial now; best first. The blocked ones and the current one are excluded.
    """
    choices = {choice.name: choice for choice in rank(candidates, payload, current, now_unix_s)}
    kept = choices.get(current)
    if kept is None:
        return []
    return [
        name
        for name, choice in choices.items()
        if name != current and _is_clear_gain(kept, choice, 1)
    ]


def unproved(candidates: Sequence[Candidate], payload: Payload, current: str) -> list[str]:
    """Return the transports before the current one in preference that may be as fast as it.

    They were abandoned because of probes alone and would not be used again, however fast images
    are over them. So each is worth one image.
    """
    used = next((candidate for candidate in candidates if candidate.name == current), None)
    used_s = None if used is None else predict_s(used.estimate, payload)
    if used_s is None:
        return []
    found = []
    for candidate in itertools.takewhile(lambda each: each is not used, candidates):
        seconds = predict_s(candidate.estimate, payload)
        if (
            candidate.blocked is None
            and is_only_probed(candidate.estimate, payload)
            and seconds is not None
            and seconds < PROBE_SLOWDOWN_MAX * used_s
        ):
            found.append(candidate.name)
    return found
