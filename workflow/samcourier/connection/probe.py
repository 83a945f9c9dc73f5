"""One probe over an open transport: it counts the bytes and times both directions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..errors import ServiceFailed
from ..transports.base import Transport
from .throughput import Sample
from .timing import clock_offset_s, sample_of


@dataclass(frozen=True)
class Probed:
    """One answered probe. ``clock_offset_s`` is computed from this probe's own midpoints."""

    answer: dict[str, Any]
    sample: Sample
    clock_offset_s: float

    @property
    def travel_s(self) -> float:
        """The seconds in both directions, without the service's own."""
        return self.sample.send_s + self.sample.receive_s


async def probe_transport(
    transport: Transport,
    payload: bytes,
    reply_bytes: int,
    timeout_s: float,
    known_offset_s: float | None = None,
) -> Probed:
    """Send a probe and measure its answer.

    Args:
        transport: An open transport.
        payload: The bytes to send.
        reply_bytes: How many bytes the service shall return.
        timeout_s: The deadline of the call, in seconds.
        known_offset_s: The service's clock minus ours; without it, both directions are assumed to
            take equally long.

    Raises ServiceFailed when the number of bytes differs from the expected one or the answer has
    no times, and the failures of the transport.
    """
    sent_unix_s = time.time()
    answer = await transport.call(
        "probe", {"payload": payload, "reply_bytes": reply_bytes}, timeout_s
    )
    own_offset_s = clock_offset_s(answer, sent_unix_s)
    offset_s = own_offset_s if known_offset_s is None else known_offset_s
    sample = sample_of(answer, len(payload), sent_unix_s, offset_s)
    received, data = answer.get("received_bytes"), answer.get("data")
    arrived = (
        received if isinstance(received, int) else None,
        len(data) if isinstance(data, bytes) else 0,
    )
    expected = (len(payload), reply_bytes)
    if arrived != expected or sample is None:
        raise ServiceFailed(f"{arrived} bytes arrived up and down, expected {expected}")
    return Probed(answer, sample, own_offset_s)
