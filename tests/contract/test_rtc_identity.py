"""Who a caller is, and what a WebRTC peer may reach, whatever the peer says of itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypha_rpc import get_rtc_service

from samcourier.diagnostics.verify import verify_service
from samcourier.transports import Endpoint, build_transports
from samservice.engines.watershed import WatershedEngine
from samservice.hypha.connection import connect
from samservice.server.serve import Address, ServeSettings, serve
from samservice.webrtc.endpoint import HOST_CANDIDATES_ONLY
from samservice.webrtc.peer import RTC_CHUNK_BYTES, Implementation

pytestmark = pytest.mark.live

TIMEOUT_S = 30.0
SMALL, CHUNKED = 10, 1_000_000
SERVICE = "shared"


@dataclass
class Host:
    """A public service run by this test, with a private one beside it on its connection."""

    address: Address
    server: Any

    @property
    def user(self) -> dict[str, Any]:
        return dict(self.server.config["user"])

    def context(self) -> dict[str, Any]:
        """Return what a peer would have to say to be taken for the host itself."""
        identity = {"user": self.user, "ws": self.address.workspace, "from": "*/manager"}
        return identity | {"to": self.address.service_id.split(":")[0]}


@pytest.fixture
async def host(live_endpoint: Endpoint, answering: Implementation) -> AsyncIterator[Host]:
    settings = ServeSettings(
        live_endpoint.server_url,
        live_endpoint.token,
        live_endpoint.workspace,
        SERVICE,
        visibility="public",
        rtc_implementation=answering,
    )
    ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def share_more(address: Address, server: Any) -> None:
        private = {"id": "private", "config": {"visibility": "protected"}, "reveal": reveal}
        await server.register_service(private)
        ready.set_result(Host(address, server))

    serving = asyncio.ensure_future(
        serve(WatershedEngine(), settings, on_ready=share_more, stop=stop)
    )
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    yield ready.result()
    stop.set()
    await serving


def reveal() -> str:
    return "the secret"


class Peer:
    """A WebRTC caller written by hand on hypha-rpc and aiortc, whose messages can be forged."""

    def __init__(self, server: Any, connection: Any, host: Host) -> None:
        self.user_id: str = server.config["user"]["id"]
        self.connection = connection
        self._server = server
        self._host = host

    async def service(self, name: str = SERVICE) -> Any:
        return await self.connection.get_service(name)

    async def call_raw(self, method: str) -> Any:
        """Call an object of the other side by its path, without having been given it."""
        target = (await self.service())["probe"].__rpc_object__["_rtarget"]
        call = self.connection.rpc._generate_remote_method(
            {"_rtarget": target, "_rmethod": method, "_rpromise": True}
        )
        return await asyncio.wait_for(call(), TIMEOUT_S)

    def forge(self) -> None:
        """Write the host's identity into every message from now on, inside chunks as well."""
        rpc, lie = self.connection.rpc, self._host.context()
        emit_honestly, send_chunks_honestly = rpc._emit_message, rpc._send_chunks

        def forged(package: bytes) -> bytes:
            parts = list(msgpack.Unpacker(io.BytesIO(package), max_buffer_size=0))
            names = {"ctx": lie, "user": lie["user"], "ws": lie["ws"]}
            return b"".join(msgpack.packb(part | names) for part in parts)

        async def emit(package: bytes) -> None:
            await emit_honestly(forged(package))

        async def send_chunks(package: bytes, *others: Any) -> None:
            await send_chunks_honestly(forged(package), *others)

        rpc._emit_message, rpc._send_chunks = emit, send_chunks

    async def close(self) -> None:
        await self.connection.disconnect()
        await self._server.disconnect()


@pytest.fixture
async def stranger(host: Host) -> AsyncIterator[Peer]:
    """An anonymous caller from a workspace of its own."""
    server = await connect(host.address.server_url)
    connection = await get_rtc_service(
        server,
        host.address.rtc_service_id,
        {
            "context": {"user": server.config["user"]},
            "long_message_chunk_size": RTC_CHUNK_BYTES,
            "ice_servers": HOST_CANDIDATES_ONLY,
        },
    )
    peer = Peer(server, connection, host)
    yield peer
    await peer.close()


async def test_a_caller_is_the_same_user_over_every_transport(live_endpoint: Endpoint) -> None:
    verdict = await verify_service(live_endpoint, build_transports(live_endpoint))
    callers = {name: found["caller"] for name, found in verdict["transports"].items()}
    assert set(callers) == {"websocket", "webrtc", "http"}
    assert None not in callers.values()
    assert len(set(callers.values())) == 1, callers


@pytest.mark.parametrize("size", [SMALL, CHUNKED], ids=["small", "chunked"])
async def test_a_forged_context_keyword_is_ignored(host: Host, stranger: Peer, size: int) -> None:
    service = await stranger.service()
    answer = await service.probe(bytes(size), context=host.context())
    assert answer["caller"] == stranger.user_id != host.user["id"]


@pytest.mark.parametrize("size", [SMALL, CHUNKED], ids=["small", "chunked"])
async def test_a_forged_message_is_ignored(host: Host, stranger: Peer, size: int) -> None:
    stranger.forge()
    service = await stranger.service()
    answer = await service.probe(bytes(size))
    assert answer["received_bytes"] == size
    assert answer["caller"] == stranger.user_id != host.user["id"]


@pytest.mark.parametrize("forging", [False, True], ids=["honest", "forging"])
async def test_a_peer_reaches_the_shared_service_alone(
    host: Host, stranger: Peer, forging: bool
) -> None:
    prefix = host.address.service_id.partition(":")[0]
    beside = await host.server.get_service(f"{prefix}:private")
    assert await beside.reveal() == "the secret"

    if forging:
        stranger.forge()
    for name in ("private", f"{SERVICE}-rtc"):
        with pytest.raises(Exception, match="Service not found"):
            await stranger.service(name)
    for method in ("private.reveal", f"{SERVICE}-rtc.offer"):
        with pytest.raises(Exception, match="not found"):
            await stranger.call_raw(f"services.{method}")


@pytest.mark.parametrize(
    "path",
    ["probe.__self__.close", "segment_all.__func__.__globals__.asyncio.get_running_loop"],
)
async def test_a_peer_reaches_only_the_shared_methods(stranger: Peer, path: str) -> None:
    with pytest.raises(Exception, match=r"target_id|denied|not found"):
        await stranger.call_raw(f"services.{SERVICE}.{path}")
    answer = await (await stranger.service()).probe(b"still here")
    assert answer["received_bytes"] == 10
