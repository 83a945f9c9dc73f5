"""Convert an answered call to a sample for the choice of transports."""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import replace
from typing import Any

from ..errors import ServiceFailed
from .throughput import RATE_MIN_BYTES, Payload, Sample, Transfer, alone_s

#: How many past transfers are kept to find those that overlap the present one.
_KEPT_TRANSFERS = 16

#: A limit above any seconds since 1970 and any wait; NaN and infinity are not below it either.
_TIME_LIMIT_S = 1e12


def sample_of(
    value: Any, up_bytes: int, sent_unix_s: float, clock_offset_s: float
) -> Sample | None:
    """Split an answered call into send and receive seconds, with the service's own times.

    Args:
        value: The answer of the service.
        up_bytes: The bytes of the request.
        sent_unix_s: When the request was sent, on our clock.
        clock_offset_s: The service's clock minus ours (:func:`clock_offset_s`).

    Returns None when the answer has no times. Raises ServiceFailed when the times are not numbers
    or not plausible.
    """
    if not isinstance(value, dict) or "received_unix_s" not in value:
        return None
    returned_unix_s = time.time()
    received, answered = _service_times(value)
    travel_s = max(returned_unix_s - sent_unix_s - max(answered - received, 0.0), 0.0)
    send_s = min(max(received - clock_offset_s - sent_unix_s, 0.0), travel_s)
    return Sample(
        Payload(up_bytes, _down_bytes(value)),
        send_s,
        travel_s - send_s,
        _stage_s(value, "queue") or 0.0,
        *(_stage_s(value, stage) for stage in ("prepare", "infer", "finish")),
    )


def clock_offset_s(value: dict[str, Any], sent_unix_s: float) -> float:
    """Return the service's clock minus ours, from the midpoints of one small call (RFC 5905)."""
    received, answered = _service_times(value)
    return (received + answered) / 2 - (sent_unix_s + time.time()) / 2


def _service_times(value: dict[str, Any]) -> tuple[float, float]:
    try:
        times = float(value["received_unix_s"]), float(value["sent_unix_s"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ServiceFailed("the times in the service's answer are not numbers") from None
    if not all(abs(each) < _TIME_LIMIT_S for each in times):
        raise ServiceFailed(
            f"the times in the service's answer are {times}, expected seconds since 1970"
        )
    return times


def _stage_s(value: dict[str, Any], stage: str) -> float | None:
    """Return the seconds of a stage of the service, None where it reports no plausible number."""
    seconds = value.get("seconds")
    stage_s = seconds.get(stage) if isinstance(seconds, dict) else None
    is_number = isinstance(stage_s, int | float) and 0.0 <= stage_s < _TIME_LIMIT_S
    return float(stage_s) if is_number and stage_s is not None else None


def _down_bytes(value: dict[str, Any]) -> int:
    """Return the bytes of a probe's data, a packed mask, or the packed arrays of an embedding."""
    packed = [each.get("data") for each in value.values() if isinstance(each, dict)]
    return sum(len(data) for data in (value.get("data"), *packed) if isinstance(data, bytes))


class Traffic:
    """The simultaneous transfers over one link, so that each call is measured as if alone."""

    def __init__(self) -> None:
        self._tokens = itertools.count()
        self._in_flight: dict[int, tuple[float, Payload]] = {}
        self._up: deque[Transfer] = deque(maxlen=_KEPT_TRANSFERS)
        self._down: deque[Transfer] = deque(maxlen=_KEPT_TRANSFERS)

    @property
    def payload(self) -> Payload:
        """The bytes of all calls in flight."""
        payloads = [payload for _, payload in self._in_flight.values()]
        return Payload(
            sum(payload.up_bytes for payload in payloads),
            sum(payload.down_bytes for payload in payloads),
        )

    def begin(self, payload: Payload, sent_unix_s: float) -> int:
        """Note a call sent at ``sent_unix_s`` and return its number for :meth:`end`."""
        token = next(self._tokens)
        self._in_flight[token] = sent_unix_s, payload
        return token

    def abandon(self, token: int) -> None:
        """Forget a failed call; a call that has ended is ignored."""
        self._in_flight.pop(token, None)

    def end(self, token: int, sample: Sample, ended_unix_s: float) -> Sample:
        """Return the sample of an answered call with the seconds it would have taken alone."""
        sent_unix_s, _ = self._in_flight.pop(token)
        up = Transfer(sent_unix_s, sent_unix_s + sample.send_s)
        down = Transfer(ended_unix_s - sample.receive_s, ended_unix_s)
        # Calls sent after this one and not answered yet were still being sent when it arrived:
        # they share the link evenly. Calls sent before it arrived before it.
        still_sent = [
            Transfer(sent, up.end_s)
            for sent, payload in self._in_flight.values()
            if sent >= sent_unix_s and payload.up_bytes >= RATE_MIN_BYTES
        ]
        alone = replace(
            sample,
            send_s=alone_s(up, [*self._up, *still_sent]),
            receive_s=alone_s(down, self._down),
        )
        if sample.payload.up_bytes >= RATE_MIN_BYTES:
            self._up.append(up)
        if sample.payload.down_bytes >= RATE_MIN_BYTES:
            self._down.append(down)
        return alone
