"""A caller written by hand on msgpack: it says whatever it likes, over WebSocket and WebRTC."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from samservice.hypha.connection import connect
from samservice.server.serve import Address

ANSWER_TIMEOUT_S = 15.0

Message = dict[str, Any]


class Refused(Exception):
    """The other side rejected the call; its words."""


@dataclass
class RawCaller:
    """Sends messages of two parts and finds the answers among what comes back."""

    #: Who the caller says that it is, where Hypha does not say so, and whom it talks to.
    me: str
    target: str
    user_id: str
    send_bytes: Callable[[bytes], Awaitable[None]]
    received: list[tuple[Message, Message]] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, message: bytes) -> None:
        """Keep what the other side sent."""
        first, *second = msgpack.Unpacker(io.BytesIO(message))
        self.received.append((first, second[0] if second else {}))
        self._came.set()

    async def send(self, first: Message, second: Message) -> None:
        await self.send_bytes(msgpack.packb(first) + msgpack.packb(second))

    def message(
        self, method: str, arguments: list[Any], keywords: Message | None = None
    ) -> tuple[Message, Message]:
        """Return an honest call's two parts."""
        first = {"type": "method", "from": self.me, "to": self.target, "method": method}
        given = [*arguments, keywords] if keywords else arguments
        second = {"args": given, "with_kwargs": bool(keywords), "promise": "*", "t": 5}
        return first | {"session": uuid.uuid4().hex}, second

    async def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call honestly and return the answer; raise Refused."""
        first, second = self.message(method, list(arguments), keywords)
        await self.send(first, second)
        return await self.answer(first["session"])

    async def call_in_chunks(self, first: Message, second: Message) -> None:
        """Send both parts as hypha-rpc sends what is too large for one message."""
        cache, key = "services.built-in.message_cache", uuid.uuid4().hex
        await self.call(f"{cache}.create", key, False)
        whole = msgpack.packb(first) + msgpack.packb(second)
        await self.call(f"{cache}.set", key, 0, whole, False)
        await self.call(f"{cache}.process", key, False)

    async def answer(self, session: str) -> Any:
        """Return what the other side answered; raise Refused, or TimeoutError."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                for first, second in self.received:
                    if first["method"] == f"{session}.resolve":
                        return second["args"][0] if second.get("args") else None
                    if first["method"] == f"{session}.reject":
                        raise Refused(str(second["args"][0]))
                self._came.clear()
                await self._came.wait()


@asynccontextmanager
async def over_websocket(address: Address, token: str | None = None) -> AsyncIterator[RawCaller]:
    """Call over a connection of its own, a stranger's without ``token``."""
    server = await connect(address.server_url, token=token)
    connection = server.rpc._connection
    caller = RawCaller(
        me=f"{server.config['workspace']}/{server.rpc._client_id}",
        target=address.service_id.partition(":")[0],
        user_id=server.config["user"]["id"],
        send_bytes=connection.emit_message,
    )
    understand = server.rpc._on_message
    connection.on_message(caller.take)
    try:
        yield caller
    finally:
        connection.on_message(understand)
        await server.disconnect()


@dataclass
class Offered:
    """An aiortc peer that has made its offer."""

    connection: RTCPeerConnection
    channel: Any

    @property
    def offer(self) -> dict[str, str]:
        local = self.connection.localDescription
        return {"sdp": local.sdp, "type": local.type}

    async def accept(self, answer: dict[str, str]) -> None:
        description = RTCSessionDescription(sdp=answer["sdp"], type=answer["type"])
        await self.connection.setRemoteDescription(description)

    async def is_open_within(self, timeout_s: float) -> bool:
        opened = asyncio.Event()
        self.channel.on("open", opened.set)
        if self.channel.readyState != "open":
            try:
                await asyncio.wait_for(opened.wait(), timeout_s)
            except TimeoutError:
                return False
        return True

    def caller(self, workspace: str, user_id: str) -> RawCaller:
        async def send(message: bytes) -> None:
            self.channel.send(message)

        target = f"{workspace}/{self.channel.label}"
        caller = RawCaller(f"{workspace}/{uuid.uuid4().hex}", target, user_id, send)
        self.channel.on("message", caller.take)
        return caller


@asynccontextmanager
async def offered() -> AsyncIterator[Offered]:
    """Make an offer that nobody has seen yet."""
    connection = RTCPeerConnection(RTCConfiguration([]))
    peer = Offered(connection, connection.createDataChannel(uuid.uuid4().hex))
    try:
        await connection.setLocalDescription(await connection.createOffer())
        yield peer
    finally:
        await connection.close()


@asynccontextmanager
async def over_webrtc(address: Address, token: str | None = None) -> AsyncIterator[RawCaller]:
    """Call over a data channel that was opened honestly, a stranger's without ``token``."""
    server = await connect(address.server_url, token=token)
    try:
        endpoint = await server.get_service(address.rtc_service_id)
        async with offered() as peer:
            await peer.accept(await endpoint.offer(peer.offer))
            assert await peer.is_open_within(ANSWER_TIMEOUT_S)
            yield peer.caller(address.workspace, server.config["user"]["id"])
    finally:
        await server.disconnect()


OVER = {"websocket": over_websocket, "webrtc": over_webrtc}
