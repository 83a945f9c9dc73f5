"""A WebRTC peer with aiortc, in pure Python on this event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from .peer import SEND_BUFFER_BYTES, Channel, Description, Peer

#: Linux limits it to net.core.rmem_max.
RECEIVE_BUFFER_BYTES = 4 << 20

#: Connectivity checks stop within 0.02 s of the request; this bounds the wait.
CHECKS_TIMEOUT_S = 1.0

#: A close that waits for a silent STUN server (5 s) continues in the background after this.
CLOSE_TIMEOUT_S = 1.5


#: Longest delay of the acknowledgement of a single packet; RFC 9260 allows ten times as much.
SACK_DELAY_S = 0.02


class DelayedSacks:
    """Acknowledge every second data packet, as RFC 9260 (6.2) recommends.

    aiortc acknowledges each packet, which costs both ends a third of their time. Missing and
    duplicate packets are reported at once, so that losses are detected as early as before. At most
    two packets share an acknowledgement, because aiortc sends four packets at most after each.
    """

    def __init__(self, sctp: Any) -> None:
        self._sctp = sctp
        self._send_now = sctp._send_sack
        self._delayed: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        sctp._send_sack = self.send

    async def send(self) -> None:
        """Send the acknowledgement, or delay it until the next packet."""
        is_urgent = self._sctp._sack_misordered or self._sctp._sack_duplicates
        if self._delayed is None and not is_urgent:
            self._sctp._sack_needed = False
            self._delayed = asyncio.get_running_loop().call_later(SACK_DELAY_S, self._is_due)
            return
        self.cancel()
        await self._send_now()

    def _is_due(self) -> None:
        self._delayed = None
        self._late = asyncio.ensure_future(self._send_late())

    async def _send_late(self) -> None:
        with suppress(ConnectionError):
            await self._send_now()

    def cancel(self) -> None:
        """Cancel the delayed acknowledgement."""
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None


class AiortcChannel(Channel):
    """A data channel of aiortc."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native
        native.bufferedAmountLowThreshold = SEND_BUFFER_BYTES // 2
        native.on("bufferedamountlow", self._room.set)
        native.on("message", self._received)

    @property
    def label(self) -> str:
        return str(self._native.label)

    def state(self) -> str:
        return str(self._native.readyState)

    def buffered_bytes(self) -> int:
        return int(self._native.bufferedAmount)

    def _send(self, message: bytes | str) -> None:
        self._native.send(message)


class AiortcPeer(Peer):
    """One end of an aiortc connection."""

    implementation = "aiortc"

    def __init__(
        self,
        ice_servers: list[dict[str, Any]],
        on_channel: Callable[[Channel], None],
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(on_channel, on_lost)
        self._closing: asyncio.Task[None] | None = None
        self._gathering: asyncio.Task[None] | None = None
        self._sacks: DelayedSacks | None = None
        servers = [RTCIceServer(**server) for server in ice_servers]
        self._native = RTCPeerConnection(RTCConfiguration(servers))
        self._native.on("datachannel", self._announced)
        self._native.on("connectionstatechange", self._connection_changed)

    def _announced(self, native: Any) -> None:
        channel = AiortcChannel(native)
        native.on("close", lambda: self._channel_closed(channel))
        self._take_channel(channel)

    async def offer(self, label: str) -> Description:
        native = self._native.createDataChannel(label)
        channel = AiortcChannel(native)
        native.on("open", lambda: self._take_channel(channel))
        native.on("close", lambda: self._channel_closed(channel))
        await self._gather(self._native.setLocalDescription(await self._native.createOffer()))
        return self._local_description()

    async def answer(self, offer: Description) -> Description:
        await self.accept(offer)
        await self._gather(self._native.setLocalDescription(await self._native.createAnswer()))
        return self._local_description()

    async def accept(self, answer: Description) -> None:
        await self._native.setRemoteDescription(
            RTCSessionDescription(sdp=answer["sdp"], type=answer["type"])
        )

    async def _gather(self, gathering: Coroutine[Any, Any, None]) -> None:
        self._gathering = asyncio.ensure_future(gathering)
        await asyncio.shield(self._gathering)
        if self._closing is not None:
            raise ConnectionError("the connection was closed")
        sctp = self._native.sctp
        if sctp is not None:
            self._sacks = DelayedSacks(sctp)
            _widen_receive_buffers(sctp)

    def _local_description(self) -> Description:
        local = self._native.localDescription
        return {"sdp": local.sdp, "type": local.type}

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.wait({self._closing}, timeout=CLOSE_TIMEOUT_S)

    async def _close(self) -> None:
        # If closed or cancelled during gathering, aiortc would leave sockets open.
        if self._gathering is not None:
            await asyncio.wait({self._gathering})
        if self._sacks is not None:
            self._sacks.cancel()
        ice = None if self._native.sctp is None else self._native.sctp.transport.transport
        is_checking = ice is not None and ice.state == "checking"
        await self._native.close()
        if is_checking:
            await self._stop_again(ice)

    async def _stop_again(self, ice: Any) -> None:
        """Stop the connection again if checks that had just succeeded reopen it."""
        settled = asyncio.Event()
        ice.on("statechange", settled.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECKS_TIMEOUT_S):
                while ice.state == "closed":
                    settled.clear()
                    await settled.wait()
        await ice.stop()

    def connection_state(self) -> str:
        return str(self._native.connectionState)

    def progress(self) -> int:
        if self._native.sctp is None:
            return 0
        (transport,) = self._native.sctp.transport._get_stats().values()
        return int(transport.bytesReceived)


def _widen_receive_buffers(sctp: Any) -> None:
    """Enlarge the kernel's receive buffers for the packets that arrive while Python is busy.

    With the default of 208 KiB the kernel drops hundreds of packets of a large image, and SCTP
    waits a second for each packet that is missing at the end.
    """
    for protocol in sctp.transport.transport._connection._protocols:
        datagrams = protocol.transport.get_extra_info("socket")
        if datagrams is not None:
            with suppress(OSError):
                datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
