"""A WebRTC endpoint that supports large calls and verified callers.

hypha-rpc's own ``register_rtc_service`` replaces the peer's services by those of the server
connection (``webrtc_client._create_offer``: ``rpc._services = server.rpc._services``). With
that line (D1) chunks of a large request land in another object's cache, (D2) methods that
need the caller's context get none, and every service of the connection is exposed. Its chunks
also exceed the SCTP message limit that aiortc enforces (D3). This endpoint adds only the
shared service to the peer's own, sends chunks that the peer accepts, and uses the identity of the
offer, which Hypha verified, never the one that the peer claims.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..hypha.guarded_rpc import GuardedRPC
from .open import open_peer
from .peer import HOST_CANDIDATES_ONLY, Channel, Implementation, Peer, chunk_bytes

logger = logging.getLogger(__name__)

MAX_PEERS = 64

#: A peer is closed if the other side does not connect within this time after its offer.
OPEN_TIMEOUT_S = 30.0


class PeerRPC(GuardedRPC):
    """hypha-rpc's RPC over one data channel, with the caller's identity from the offer."""

    @property
    def channel(self) -> Channel:
        """The data channel."""
        channel: Channel = self._connection
        return channel

    def _handle_method(self, data: dict[str, Any]) -> None:
        """Replace the context of the message by the verified one, then call the method."""
        # Built-in methods need the peer's names of both ends to answer; other methods must not
        # receive these unverified names.
        ends = {"from": data.get("from"), "to": data.get("to")}
        is_built_in = str(data.get("method")).startswith("services.built-in.")
        data["ctx"] = (ends if is_built_in else {}) | self.default_context
        super()._handle_method(data)


class RtcEndpoint:
    """Answer WebRTC offers for one service and close its peers."""

    def __init__(
        self,
        server: Any,
        shared: dict[str, Any],
        ice_servers: list[dict[str, Any]],
        implementation: Implementation | None = None,
        authorize: Callable[[dict[str, Any] | None], None] | None = None,
    ) -> None:
        self._authorize = authorize
        self._server = server
        self._shared = shared
        self._ice_servers = ice_servers
        self._implementation = implementation
        self._peers: dict[Peer, PeerRPC | None] = {}
        self._waiting: dict[Peer, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def offer(
        self, params: dict[str, Any], context: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Answer one offer (``sdp``, ``type``) of the caller in ``context``.

        Raises RuntimeError above ``MAX_PEERS`` and the errors of ``authorize``.
        """
        if self._authorize is not None:
            self._authorize(context)
        if len(self._peers) >= MAX_PEERS:
            raise RuntimeError(f"too many WebRTC peers ({MAX_PEERS}), use WebSocket")
        workspace = self._server.config["workspace"]
        verified = {
            "user": (context or {}).get("user") or {},
            "ws": workspace,
            "connection_type": "webrtc",
        }

        def share(channel: Channel) -> None:
            if peer in self._peers:
                self._stop_waiting(peer)
                self._peers[peer] = self._share_over(
                    channel, workspace, verified, chunk_bytes(params["sdp"])
                )

        peer = open_peer(
            self._ice_servers,
            on_channel=share,
            on_lost=lambda: self._close_soon(peer),
            implementation=self._implementation,
        )
        self._peers[peer] = None
        self._waiting[peer] = asyncio.get_running_loop().call_later(
            OPEN_TIMEOUT_S, self._close_soon, peer
        )
        try:
            answer = await peer.answer(params)
        except BaseException:
            await self._close_peer(peer)
            raise
        return {**answer, "workspace": workspace, "implementation": peer.implementation}

    def _share_over(
        self, channel: Channel, workspace: str, verified: dict[str, Any], chunk_size_bytes: int
    ) -> PeerRPC:
        rpc = PeerRPC(
            channel,
            client_id=channel.label,
            default_context=verified,
            workspace=workspace,
            long_message_chunk_size=chunk_size_bytes,
            logger=None,
        )
        # Hypha already checked the visibility when the caller reached `offer`; the workspace that
        # the peer claims must not be checked again.
        config = {**self._shared.get("config", {}), "visibility": "public"}
        rpc.add_service({**self._shared, "config": config}, overwrite=True)
        return rpc

    def _stop_waiting(self, peer: Peer) -> None:
        waiting = self._waiting.pop(peer, None)
        if waiting is not None:
            waiting.cancel()

    def _close_soon(self, peer: Peer) -> None:
        if peer in self._peers:
            task = asyncio.ensure_future(self._close_peer(peer))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_peer(self, peer: Peer) -> None:
        self._stop_waiting(peer)
        rpc = self._peers.pop(peer, None)
        if rpc is not None:
            await rpc.disconnect()
        await peer.close()

    @property
    def is_sending(self) -> bool:
        """Whether a message of any peer has not left yet."""
        return any(
            rpc is not None and (rpc.is_sending or rpc.channel.buffered_bytes() > 0)
            for rpc in self._peers.values()
        )

    async def close(self) -> None:
        """Close every peer."""
        await asyncio.gather(*(self._close_peer(peer) for peer in list(self._peers)))
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)


async def register_rtc_endpoint(
    server: Any,
    endpoint_id: str,
    shared: dict[str, Any],
    *,
    visibility: str,
    ice_servers: list[dict[str, Any]] | None = None,
    implementation: Implementation | None = None,
    authorize: Callable[[dict[str, Any] | None], None] | None = None,
) -> RtcEndpoint:
    """Register ``endpoint_id``, whose method ``offer`` connects WebRTC peers to ``shared``.

    ``authorize`` receives the caller's context and raises to refuse a peer.
    """
    endpoint = RtcEndpoint(
        server, shared, ice_servers or HOST_CANDIDATES_ONLY, implementation, authorize
    )
    await server.register_service(
        {
            "id": endpoint_id,
            "name": endpoint_id,
            "type": "samservice-rtc",
            "config": {"visibility": visibility, "require_context": True},
            "offer": endpoint.offer,
        }
    )
    return endpoint
