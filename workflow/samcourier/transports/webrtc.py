"""Calls straight to the service over a WebRTC data channel; Hypha carries the offer only.

hypha-rpc's calling side needs three things said to it (the defects are named in
``docs/decisions/0002-webrtc.md``): the caller's user in the context, or every reply above one
chunk is lost (D4); chunks below the SCTP message limit (D3); and an ICE server list that is
not empty, or it asks a public STUN server.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypha_rpc import get_rtc_service

from samservice.rtc import HOST_CANDIDATES_ONLY, RTC_CHUNK_BYTES

from ..errors import TransportFailed
from .base import Endpoint, TransportName
from .session import SILENCE_TIMEOUT_S, HyphaSession, call_remote
from .translate import translate_opening

#: aiortc cuts messages into chunks of this size and numbers them.
SCTP_CHUNK_BYTES = 1200

#: A closed peer ends its handshake at once; this only bounds the wait for it.
CLOSE_TIMEOUT_S = 0.5


class WebRTCTransport:
    """The direct way: fastest where the relay is slow, impossible where UDP is closed."""

    name: TransportName = "webrtc"

    def __init__(
        self,
        session: HyphaSession,
        endpoint: Endpoint | None = None,
    ) -> None:
        self._session = session
        self._endpoint = endpoint or session.endpoint
        servers = [each.as_dict() for each in self._endpoint.network.ice_servers]
        self._ice_servers = servers or HOST_CANDIDATES_ONLY
        self._peer: Any = None
        self._service: Any = None

    async def open(self, timeout_s: float) -> None:
        """Exchange the offer, wait for the channel, look the service up."""
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._session.server(timeout_s, self)
                self._peer = await self._handshake(server)
                name = self._endpoint.service_id.split(":")[-1]
                self._service = await self._peer.get_service(name)
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise TransportFailed(
                    f"webrtc: no channel within {timeout_s:g} s (UDP closed, or no route)",
                    name="TimeoutError",
                ) from error
            if isinstance(error, Exception):
                raise translate_opening(error, self.name) from error
            raise

    async def _handshake(self, server: Any) -> Any:
        """Return the connected peer; a failed or cancelled one is closed, not left to linger.

        By itself it would go on for a minute, and hypha-rpc's inner future would then fail with
        nobody listening. So the peer is closed first and the task is waited for.
        """
        peers: list[Any] = []

        async def keep(peer: Any) -> None:
            peers.append(peer)

        connecting = asyncio.ensure_future(
            get_rtc_service(
                server,
                self._endpoint.rtc_service_id,
                {
                    "context": {"user": server.config["user"]},
                    "long_message_chunk_size": RTC_CHUNK_BYTES,
                    "ice_servers": self._ice_servers,
                    "method_timeout": SILENCE_TIMEOUT_S,
                    "on_init": keep,
                },
            )
        )
        try:
            return await asyncio.shield(connecting)
        except BaseException:
            for peer in peers:
                await peer.close()
            if not peers:
                connecting.cancel()
            await asyncio.wait({connecting}, timeout=CLOSE_TIMEOUT_S)
            if not connecting.cancel() and not connecting.cancelled():
                connecting.exception()
            raise

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the service, within ``timeout_s``."""
        if self._peer is not None and self._peer.connectionState != "connected":
            raise TransportFailed(f"webrtc: the channel is {self._peer.connectionState}")
        return await call_remote(self._service, method, arguments, timeout_s, self.name)

    async def close(self) -> None:
        """Close channel and peer, and leave the shared connection."""
        peer, self._peer, self._service = self._peer, None, None
        if peer is not None:
            with suppress(Exception):
                await peer.rpc.disconnect()
            await peer.close()
        await self._session.release(self)

    def progress(self) -> int:
        """Return the bytes of the SCTP chunks received, and of those sent and acknowledged."""
        sctp = None if self._peer is None else self._peer.sctp
        if sctp is None:
            return 0
        return SCTP_CHUNK_BYTES * int(sctp._last_sacked_tsn + (sctp._last_received_tsn or 0))

    def state(self) -> str:
        """Return the states of ICE and of the peer connection."""
        peer = self._peer
        return (
            "closed" if peer is None else f"{peer.connectionState}, ICE {peer.iceConnectionState}"
        )
