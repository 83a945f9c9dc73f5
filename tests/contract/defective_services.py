"""Services with exactly one of hypha-rpc's WebRTC defects each, on the stock library's RPC."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypha_rpc import connect_to_server
from hypha_rpc.rpc import RPC

from samcourier.transports import Endpoint, WebRTCTransport
from samservice.contract.errors import NotAuthorized
from samservice.webrtc.endpoint import HOST_CANDIDATES_ONLY, RtcEndpoint
from samservice.webrtc.peer import Channel, Peer

#: Nobody is there (RFC 5737).
NOWHERE = "192.0.2.1"

PLAIN = ("segment_all",)
FULL = ("describe", "probe", "segment_all")


def methods(names: tuple[str, ...], needs_context: bool) -> dict[str, Any]:
    """Return the service's methods; they take the caller's context, or need it as BioEngine's."""

    def probe(payload: bytes, reply_bytes: int = 0, context: Any = None) -> dict[str, Any]:
        now = time.time()
        return {
            "received_bytes": len(payload),
            "data": os.urandom(reply_bytes),
            "caller": (context or {}).get("user", {}).get("id"),
            "received_unix_s": now,
            "sent_unix_s": now,
        }

    def describe(context: Any = None) -> dict[str, Any]:
        return {
            "engine": "bright", "model": "none", "model_sha256": None, "segmentation_version": 1,
        }  # fmt: skip

    def segment_all(image_or_embedding: Any, context: Any = None) -> np.ndarray:
        if not isinstance(image_or_embedding, np.ndarray):
            raise TypeError("expected an array")
        return (image_or_embedding > image_or_embedding.mean()).astype(np.uint32)

    def needing(method: Any) -> Any:
        def wrapped(*args: Any, context: Any, **kwargs: Any) -> Any:
            return method(*args, context=context, **kwargs)

        return wrapped

    found = {"probe": probe, "describe": describe, "segment_all": segment_all}
    return {name: needing(found[name]) if needs_context else found[name] for name in names}


def elsewhere(sdp: str) -> str:
    """Let every candidate point to where nobody is."""
    return re.sub(r"(?m)^(a=candidate:\S+ \d+ \w+ \d+) \S+", rf"\1 {NOWHERE}", sdp)


class DefectiveEndpoint(RtcEndpoint):
    """Our endpoint with one line of hypha-rpc's own put back."""

    def __init__(self, server: Any, shared: dict[str, Any], defect: str) -> None:
        def authorize(context: Any) -> None:
            if defect == "denied":
                raise NotAuthorized("caller may not use this service")

        super().__init__(server, shared, HOST_CANDIDATES_ONLY, authorize=authorize)
        self._defect = defect

    async def offer(
        self, params: dict[str, Any], context: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if self._defect != "ice_failed":
            return await super().offer(params, context)
        answer = await super().offer({**params, "sdp": elsewhere(params["sdp"])}, context)
        return {**answer, "sdp": elsewhere(answer["sdp"])}

    async def _close_peer(self, peer: Peer) -> None:
        if self._defect == "context_required":
            # The peer's services are the connection's own: disconnecting it would end them all.
            self._peers[peer] = None
        await super()._close_peer(peer)

    def _share_over(
        self, channel: Channel, workspace: str, verified: dict[str, Any], chunk_size_bytes: int
    ) -> Any:
        rpc = RPC(
            channel,
            client_id=channel.label,
            default_context=verified,
            workspace=workspace,
            # D3: hypha-rpc's own chunk is above what a data channel takes.
            long_message_chunk_size=(
                None if self._defect == "message_too_large" else chunk_size_bytes
            ),
            logger=None,
        )
        if self._defect == "context_missing":
            # D2: what is put into the table is not annotated as needing a context.
            name = self._shared["id"]
            rpc._services[name] = self._server.rpc._services[name]
            return rpc
        config = {**self._shared["config"], "visibility": "public"}
        rpc.add_service({**self._shared, "config": config}, overwrite=True)
        if self._defect == "context_required":
            # D1: the line of webrtc_client._create_offer.
            rpc._services = self._server.rpc._services
        return rpc


@asynccontextmanager
async def defective_service(
    near: Endpoint, defect: str, names: tuple[str, ...] = FULL
) -> AsyncIterator[Endpoint]:
    """Register a service with one defect on the server of ``near``; yield where it is."""
    server = await connect_to_server(
        {"server_url": near.server_url, "token": near.token, "workspace": near.workspace}
    )
    shared = {
        "id": "bright",
        "config": {"visibility": "protected", "require_context": True},
        **methods(names, needs_context=defect == "context_missing"),
    }
    endpoint = DefectiveEndpoint(server, shared, defect)
    try:
        if defect != "nothing_registered":
            await server.register_service(shared)
        if defect not in ("not_registered", "nothing_registered"):
            config = {"visibility": "protected", "require_context": True}
            await server.register_service(
                {"id": "bright-rtc", "config": config, "offer": endpoint.offer}
            )
        prefix = f"{server.config['workspace']}/{server.rpc._client_id}"
        yield Endpoint(
            near.server_url, near.workspace, f"{prefix}:bright", f"{prefix}:bright-rtc", near.token
        )
    finally:
        await endpoint.close()
        await server.disconnect()
        for task in asyncio.all_tasks():
            # Of the peers that could not be disconnected.
            if getattr(task.get_coro(), "__qualname__", "") == "RPC._session_gc_loop":
                task.cancel()


class ForgetfulWebRTC(WebRTCTransport):
    """Our calling side with D4 put back: hypha-rpc's own RPC, not told who its user is."""

    async def _find_service(self, server: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("samservice.hypha.guarded_rpc.GuardedRPC", RPC)
            service = await super()._find_service(server)
        self._rpc.default_context = {}
        return service
