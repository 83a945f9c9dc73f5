"""One answered call -> a sample for the choice of transports."""

from __future__ import annotations

import time
from typing import Any

from .choose import Payload, Sample
from .errors import ServiceFailed


def sample_of(
    value: Any, up_bytes: int, sent_unix_s: float, clock_offset_s: float
) -> Sample | None:
    """Split an answered call into send and receive seconds by the service's own times.

    ``clock_offset_s`` is the service's clock less ours (:func:`clock_offset_s`). None for a
    service that tells no times. Raises ServiceFailed when its times are not numbers.
    """
    if not isinstance(value, dict) or "received_unix_s" not in value:
        return None
    returned_unix_s = time.time()
    received, answered = _service_times(value)
    travel_s = max(returned_unix_s - sent_unix_s - max(answered - received, 0.0), 0.0)
    send_s = min(max(received - clock_offset_s - sent_unix_s, 0.0), travel_s)
    return Sample(Payload(up_bytes, _down_bytes(value)), send_s, travel_s - send_s)


def clock_offset_s(value: dict[str, Any], sent_unix_s: float) -> float:
    """Return the service's clock less ours, by the midpoints of one small call (RFC 5905)."""
    received, answered = _service_times(value)
    return (received + answered) / 2 - (sent_unix_s + time.time()) / 2


def _service_times(value: dict[str, Any]) -> tuple[float, float]:
    try:
        return float(value["received_unix_s"]), float(value["sent_unix_s"])
    except (KeyError, TypeError, ValueError):
        raise ServiceFailed("the times in the service's answer are not numbers") from None


def _down_bytes(value: dict[str, Any]) -> int:
    mask = value.get("mask")
    data = mask.get("data") if isinstance(mask, dict) else value.get("data")
    return len(data) if isinstance(data, bytes) else 0
