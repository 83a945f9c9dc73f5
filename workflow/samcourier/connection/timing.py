"""One answered call -> a sample for the choice of transports."""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import replace
from typing import Any

from ..errors import ServiceFailed
from .throughput import RATE_MIN_BYTES, Payload, Sample, Transfer, alone_s

#: So many past transfers may overlap one that ends now.
_REMEMBERED = 16

#: Above any seconds since 1970, and any wait; NaN and infinity are not below it either.
_NO_TIME_S = 1e12


def sample_of(
    value: Any, up_bytes: int, sent_unix_s: float, clock_offset_s: float
) -> Sample | None:
    """Split an answered call into send and receive seconds by the service's own times.

    ``clock_offset_s`` is the service's clock less ours (:func:`clock_offset_s`). None for a
    service that tells no times. Raises ServiceFailed when its times are not numbers, or no clock's.
    """
    if not isinstance(value, dict) or "received_unix_s" not in value:
        return None
    returned_unix_s = time.time()
    received, answered = _service_times(value)
    travel_s = max(returned_unix_s - sent_unix_s - max(answered - received, 0.0), 0.0)
    send_s = min(max(received - clock_offset_s - sent_unix_s, 0.0), travel_s)
    return Sample(Payload(up_bytes, _down_bytes(value)), send_s, travel_s - send_s, _queue_s(value))


def clock_offset_s(value: dict[str, Any], sent_unix_s: float) -> float:
    """Return the service's clock less ours, by the midpoints of one small call (RFC 5905)."""
    received, answered = _service_times(value)
    return (received + answered) / 2 - (sent_unix_s + time.time()) / 2


def _service_times(value: dict[str, Any]) -> tuple[float, float]:
    try:
        times = float(value["received_unix_s"]), float(value["sent_unix_s"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ServiceFailed("the times in the service's answer are not numbers") from None
    if not all(abs(each) < _NO_TIME_S for each in times):
        raise ServiceFailed(
            f"the times in the service's answer are {times}, expected seconds since 1970"
        )
    return times


def _queue_s(value: dict[str, Any]) -> float:
    seconds = value.get("seconds")
    queue_s = seconds.get("queue", 0.0) if isinstance(seconds, dict) else 0.0
    is_number = isinstance(queue_s, int | float) and 0.0 <= queue_s < _NO_TIME_S
    return float(queue_s) if is_number else 0.0


def _down_bytes(value: dict[str, Any]) -> int:
    """Return the bytes of a probe's data, a packed mask, or the packed arrays of an embedding."""
    packed = [each.get("data") for each in value.values() if isinstance(each, dict)]
    return sum(len(data) for data in (value.get("data"), *packed) if isinstance(data, bytes))


class Traffic:
    """What travels over one link at the same time, so that each call is measured as if alone."""

    def __init__(self) -> None:
        self._tokens = itertools.count()
        self._under_way: dict[int, tuple[float, Payload]] = {}
        self._up: deque[Transfer] = deque(maxlen=_REMEMBERED)
        self._down: deque[Transfer] = deque(maxlen=_REMEMBERED)

    @property
    def payload(self) -> Payload:
        """The bytes of all calls under way."""
        payloads = [payload for _, payload in self._under_way.values()]
        return Payload(
            sum(payload.up_bytes for payload in payloads),
            sum(payload.down_bytes for payload in payloads),
        )

    def begin(self, payload: Payload, sent_unix_s: float) -> int:
        """Note a call that is sent now; the number names it."""
        token = next(self._tokens)
        self._under_way[token] = sent_unix_s, payload
        return token

    def abandon(self, token: int) -> None:
        """Forget a call that failed, if it still counts."""
        self._under_way.pop(token, None)

    def end(self, token: int, sample: Sample, ended_unix_s: float) -> Sample:
        """Return the sample of an answered call with the seconds it would have taken alone."""
        sent_unix_s, _ = self._under_way.pop(token)
        up = Transfer(sent_unix_s, sent_unix_s + sample.send_s)
        down = Transfer(ended_unix_s - sample.receive_s, ended_unix_s)
        # Calls sent after this one and not answered yet were still being sent when it arrived:
        # they share the link evenly. What was sent before it has arrived before it.
        still_sent = [
            Transfer(sent, up.end_s)
            for sent, payload in self._under_way.values()
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
