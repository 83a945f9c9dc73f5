"""A WebRTC peer with wrtc, Chrome's engine.

wrtc runs on its own threads, which live as long as the process; its events arrive on this event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import webrtc

from .peer import SEND_BUFFER_BYTES, Channel, Description, Peer

#: Longest wait for a silent STUN server; aiortc has its own limit.
GATHERING_TIMEOUT_S = 2.0


class WrtcChannel(Channel):
    """A data channel of wrtc."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native
        native.buffered_amount_low_threshold = SEND_BUFFER_BYTES // 2
        native.on("bufferedamountlow", lambda event: self._room.set())
        native.on("message", lambda event: self._received(event.data))

    @property
    def label(self) -> str:
        return str(self._native.label)

    def state(self) -> str:
        return str(self._native.ready_state.value)

    def buffered_bytes(self) -> int:
        return int(self._native.buffered_amount)

    def _send(self, message: bytes | str) -> None:
        self._native.send(message)


class WrtcPeer(Peer):
    """One end of a wrtc connection."""

    implementation = "wrtc"

    def __init__(
        self,
        ice_servers: list[dict[str, Any]],
        on_channel: Callable[[Channel], None],
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(on_channel, on_lost)
        # wrtc refuses an entry without urls.
        servers = [webrtc.RTCIceServer(**server) for server in ice_servers if server["urls"]]
        configuration = webrtc.RTCConfiguration(ice_servers=servers)
        self._native: Any = webrtc.RTCPeerConnection(configuration)
        self._gathered = asyncio.Event()
        self._native.on("icegatheringstatechange", lambda event: self._gathering_changed())
        self._native.on("datachannel", lambda event: self._announced(event.channel))
        self._native.on("connectionstatechange", lambda event: self._connection_changed())

    def _gathering_changed(self) -> None:
        if self._native.ice_gathering_state == "complete":
            self._gathered.set()

    def _announced(self, native: Any) -> None:
        channel = WrtcChannel(native)
        native.on("close", lambda event: self._channel_closed(channel))
        self._take_channel(channel)

    async def offer(self, label: str) -> Description:
        native = self._native.create_data_channel(label)
        channel = WrtcChannel(native)
        native.on("open", lambda event: self._take_channel(channel))
        native.on("close", lambda event: self._channel_closed(channel))
        created = await self._do(self._native.create_offer())
        await self._do(self._native.set_local_description(created))
        return await self._local_description()

    async def answer(self, offer: Description) -> Description:
        await self.accept(offer)
        created = await self._do(self._native.create_answer())
        await self._do(self._native.set_local_description(created))
        return await self._local_description()

    async def accept(self, answer: Description) -> None:
        description = webrtc.RTCSessionDescriptionInit(
            webrtc.RTCSdpType(answer["type"]), answer["sdp"]
        )
        await self._do(self._native.set_remote_description(description))

    async def _do(self, step: Awaitable[Any]) -> Any:
        """Await a step of the handshake; raise ConnectionError if the connection is closed.

        wrtc cancels the step in that case.
        """
        try:
            return await step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.connection_state() != "closed" or (task is not None and task.cancelling()):
                raise
            raise ConnectionError("the connection was closed") from None

    async def _local_description(self) -> Description:
        # The candidates gathered until then may be sufficient.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gathered.wait(), GATHERING_TIMEOUT_S)
        local = self._native.local_description
        return {"sdp": local.sdp, "type": local.type.value}

    async def close(self) -> None:
        self._native.close()
        # wrtc sends no event for it on this side.
        if self._channel is not None:
            self._channel._closed()
        self._on_lost()

    def connection_state(self) -> str:
        return str(self._native.connection_state.value)

    def progress(self) -> int:
        return 0 if self._channel is None else self._channel.moved_bytes()
