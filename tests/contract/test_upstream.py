"""Why the workarounds are there: each defect in hypha-rpc, shown on the stock library.

A test here that turns red means that a release has mended the defect: look at the workaround it
names, which may go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypha_rpc import connect_to_server, get_rtc_service, register_rtc_service
from hypha_rpc.websocket_client import WebsocketRPCConnection

from samcourier.transports import Endpoint
from samservice.hypha import connect
from samservice.rtc import HOST_CANDIDATES_ONLY
from samservice.rtc_peer import RTC_CHUNK_BYTES

CALL_TIMEOUT_S = 10.0

pytestmark = pytest.mark.live


@pytest.fixture
async def stock_peer(live_endpoint: Endpoint) -> AsyncIterator[Any]:
    """A service behind hypha-rpc's own WebRTC endpoint, reached with our calling side."""
    async with asyncio.timeout(30):
        service = await connect_to_server(
            {"server_url": live_endpoint.server_url, "token": live_endpoint.token}
        )
        caller = await connect(live_endpoint.server_url, token=live_endpoint.token)

        def count(payload: bytes, context: dict[str, Any]) -> int:
            return len(payload)

        def count_for_anyone(payload: bytes) -> int:
            return len(payload)

        config = {"visibility": "protected", "require_context": True}
        await service.register_service({"id": "careful", "config": config, "count": count})
        await service.register_service({"id": "easy", "count": count_for_anyone})
        await register_rtc_service(
            service, "stock-rtc", {**config, "ice_servers": HOST_CANDIDATES_ONLY}
        )
        peer = await get_rtc_service(
            caller,
            f"{service.config['workspace']}/{service.rpc._client_id}:stock-rtc",
            {
                "context": {"user": caller.config["user"]},
                "long_message_chunk_size": RTC_CHUNK_BYTES,
                "ice_servers": HOST_CANDIDATES_ONLY,
            },
        )
    yield peer
    await peer.rpc.disconnect()
    await peer.close()
    await caller.disconnect()
    await service.disconnect()
    # The stock endpoint never ends the peers it made.
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "") == "RPC._session_gc_loop":
            task.cancel()


async def call(peer: Any, service_id: str, payload: bytes) -> int:
    async with asyncio.timeout(CALL_TIMEOUT_S):
        service = await peer.get_service(service_id)
        return int(await service.count(payload))


async def test_a_small_call_without_context_works(stock_peer: Any) -> None:
    assert await call(stock_peer, "easy", b"x" * 100) == 100


async def test_d1_a_request_above_one_chunk_fails(stock_peer: Any) -> None:
    """Mended: samservice.rtc.RtcEndpoint need no longer add the service to the peer's own."""
    with pytest.raises(Exception, match="Context is required"):
        await call(stock_peer, "easy", b"x" * 300_000)


async def test_d2_a_method_that_needs_the_context_gets_none(stock_peer: Any) -> None:
    """Mended: as D1."""
    with pytest.raises(Exception, match="context"):
        await call(stock_peer, "careful", b"x")


async def test_every_service_of_the_connection_is_exposed(stock_peer: Any) -> None:
    """Mended: as D1. Here even the offering service itself can be had over the channel."""
    async with asyncio.timeout(CALL_TIMEOUT_S):
        assert await stock_peer.get_service("stock-rtc")


def test_deflate_cannot_be_switched_off() -> None:
    """Mended: samservice.hypha.UncompressedConnection can go."""
    connection = WebsocketRPCConnection("ws://127.0.0.1:9", "client")
    assert "compression" not in connection._ws_connect_kwargs()
