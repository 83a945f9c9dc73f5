"""Calls directly to the service over a WebRTC data channel; Hypha carries the offer only.

This module implements the handshake, because hypha-rpc's ``get_rtc_service`` supports aiortc only
and goes on for a minute after a cancellation. hypha-rpc's RPC needs two settings to avoid defects
of ``docs/decisions/0002-webrtc.md``: the caller's user in the context, without which every reply
larger than one chunk is lost (D4), and chunks that the other side accepts in one message (D3).
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import Any

from samservice.webrtc.open import open_peer
from samservice.webrtc.peer import HOST_CANDIDATES_ONLY, Channel, Implementation, Peer, chunk_bytes

from ..errors import TransportFailed
from .base import Endpoint
from .session import SILENCE_TIMEOUT_S, HyphaSession, call_remote
from .translate import translate_opening


def over_webrtc(endpoint: Endpoint, session: HyphaSession) -> WebRTCTransport:
    """Build the WebRTC transport; see :mod:`.description`."""
    return WebRTCTransport(session, endpoint)


class WebRTCTransport:
    """The direct transport: the fastest if the server is slow, impossible if UDP is blocked."""

    name = "webrtc"

    def __init__(
        self,
        session: HyphaSession,
        endpoint: Endpoint | None = None,
        *,
        implementation: Implementation | None = None,
    ) -> None:
        """Without ``implementation`` the fastest installed one is used."""
        self._session = session
        self._endpoint = endpoint or session.endpoint
        servers = [each.as_dict() for each in self._endpoint.network.ice_servers]
        self._ice_servers = servers or HOST_CANDIDATES_ONLY
        self._implementation = implementation
        self._peer: Peer | None = None
        self._rpc: Any = None
        self._service: Any = None

    async def open(self, timeout_s: float) -> None:
        """Exchange the offer, wait for the channel and get the service, within ``timeout_s``.

        Raises TransportFailed, ServiceGone or Denied.
        """
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._session.server(timeout_s, self)
                self._service = await self._find_service(server)
        except BaseException as error:
            state = self.state()
            await self.close()
            if isinstance(error, TimeoutError):
                raise TransportFailed(
                    f"webrtc: no channel within {timeout_s:g} s, state {state}"
                    " (UDP is blocked, or there is no route)",
                    name="TimeoutError",
                ) from error
            if isinstance(error, Exception):
                token = self._endpoint.token
                raise translate_opening(error, self.name, token) from error
            raise

    async def _find_service(self, server: Any) -> Any:
        from samservice.hypha.guarded_rpc import GuardedRPC

        endpoint = await server.get_service(self._endpoint.rtc_service_id)
        opened: asyncio.Future[Channel | None] = asyncio.get_running_loop().create_future()

        def settle(channel: Channel | None) -> None:
            if not opened.done():
                opened.set_result(channel)

        peer = self._peer = open_peer(
            self._ice_servers,
            on_channel=settle,
            on_lost=lambda: settle(None),
            implementation=self._implementation,
        )
        label = uuid.uuid4().hex
        offer = await peer.offer(label)
        answer = await endpoint.offer({**offer, "implementation": peer.implementation})
        await peer.accept(answer)
        channel = await opened
        if channel is None:
            raise ConnectionError(f"the connection is {peer.state()}")
        # The service may be in another workspace; an older service does not report its workspace.
        workspace = answer.get("workspace") or server.config["workspace"]
        self._rpc = GuardedRPC(
            channel,
            client_id=uuid.uuid4().hex,
            default_context={
                "user": server.config["user"],
                "ws": workspace,
                "connection_type": "webrtc",
            },
            method_timeout=SILENCE_TIMEOUT_S,
            workspace=workspace,
            long_message_chunk_size=chunk_bytes(answer["sdp"]),
            logger=None,
        )
        name = self._endpoint.service_id.rpartition("/")[2].rpartition(":")[2]
        return await self._rpc.get_remote_service(f"{workspace}/{label}:{name}")

    def state(self) -> str:
        """Return the state of the connection, or of its channel."""
        return "closed" if self._peer is None else self._peer.state()

    def progress(self) -> int:
        """Return a number of bytes that changes whenever bytes have moved."""
        return 0 if self._peer is None else self._peer.progress()

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the service within ``timeout_s`` seconds; see :class:`.base.Transport`."""
        if self._peer is not None and self.state() != "connected":
            raise TransportFailed(f"webrtc: the connection is {self.state()}")
        return await call_remote(self._service, method, arguments, timeout_s, self.name)

    async def close(self) -> None:
        """Close the channel and the peer, and release the shared connection."""
        peer, self._peer = self._peer, None
        rpc, self._rpc, self._service = self._rpc, None, None
        if rpc is not None:
            with suppress(Exception):
                await rpc.disconnect()
        if peer is not None:
            await peer.close()
        await self._session.release(self)
