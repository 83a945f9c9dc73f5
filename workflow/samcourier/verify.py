"""Prove what a service can do: every transport up and down with a payload above one chunk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from .connection.estimate import Payload
from .connection.probe import probe_transport
from .connection.retry import Policy
from .errors import CourierError
from .journal import Failure, utc_now
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
    ping = await probe_transport(transport, b"", 0, policy.probe_timeout_s)
    large = await probe_transport(
        transport,
        random.randbytes(LARGE_PAYLOAD.up_bytes),
        LARGE_PAYLOAD.down_bytes,
        policy.probe_timeout_s,
        ping.clock_offset_s,
    )
    return {
        "works": True,
        "round_trip_s": ping.travel_s,
        "bytes_up": LARGE_PAYLOAD.up_bytes,
        "bytes_down": LARGE_PAYLOAD.down_bytes,
        "send_s": large.sample.send_s,
        "receive_s": large.sample.receive_s,
        "caller": large.answer.get("caller"),
    }


def working_transports(verdict: dict[str, Any]) -> list[str]:
    """Return the names of the transports that work."""
    return [name for name, each in verdict["transports"].items() if each["works"]]
