"""Prove what a service can do: every transport up and down with a payload above one chunk."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from .errors import CourierError, ServiceFailed
from .estimate import Payload
from .journal import Failure, utc_now
from .measure import clock_offset_s, sample_of
from .retry import Policy
from .transports.base import Endpoint, Transport

SERVICE_SCHEMA = "samcourier/service/1"

#: Far above one chunk of any transport (500 000 B), so that chunking itself is proved.
LARGE_PAYLOAD = Payload(4 << 20, 4 << 20)


async def verify_service(
    endpoint: Endpoint, transports: Sequence[Transport], policy: Policy | None = None
) -> dict[str, Any]:
    """Return the verdict as plain JSON: the service's description and each transport's figures.

    A transport that fails is part of the verdict, not an error.
    """
    policy = policy or Policy()
    description: dict[str, Any] = {}
    verdicts: dict[str, Any] = {}
    try:
        for transport in transports:
            try:
                await transport.open(policy.open_timeout_for(transport.name))
                description = description or dict(
                    await transport.call("describe", {}, policy.open_timeout_s)
                )
                verdicts[transport.name] = await _measure(transport, policy)
            except CourierError as error:
                verdicts[transport.name] = {"works": False, "failure": vars(Failure.of(error))}
    finally:
        # Not one by one: WebSocket's session is the one that carries WebRTC's offer.
        for transport in transports:
            await transport.close()
    return {
        "schema": SERVICE_SCHEMA,
        "verified_at": utc_now(),
        "server_url": endpoint.server_url,
        "workspace": endpoint.workspace,
        "service_id": endpoint.service_id,
        "description": description,
        "transports": verdicts,
    }


async def _measure(transport: Transport, policy: Policy) -> dict[str, Any]:
    sent_unix_s = time.time()
    ping = await transport.call("probe", {"payload": b"", "reply_bytes": 0}, policy.probe_timeout_s)
    round_trip_s = time.time() - sent_unix_s
    offset_s = clock_offset_s(ping, sent_unix_s)
    payload = random.randbytes(LARGE_PAYLOAD.up_bytes)
    sent_unix_s = time.time()
    answer = await transport.call(
        "probe",
        {"payload": payload, "reply_bytes": LARGE_PAYLOAD.down_bytes},
        policy.probe_timeout_s,
    )
    sample = sample_of(answer, LARGE_PAYLOAD.up_bytes, sent_unix_s, offset_s)
    arrived = (answer.get("received_bytes"), len(answer.get("data", b"")))
    expected = (LARGE_PAYLOAD.up_bytes, LARGE_PAYLOAD.down_bytes)
    if arrived != expected or sample is None:
        raise ServiceFailed(f"{arrived} bytes arrived up and down, expected {expected}")
    return {
        "works": True,
        "round_trip_s": round_trip_s,
        "bytes_up": expected[0],
        "bytes_down": expected[1],
        "send_s": sample.send_s,
        "receive_s": sample.receive_s,
        "caller": answer.get("caller"),
    }


def working_transports(verdict: dict[str, Any]) -> list[str]:
    """Return the names of the transports that work."""
    return [name for name, each in verdict["transports"].items() if each["works"]]
