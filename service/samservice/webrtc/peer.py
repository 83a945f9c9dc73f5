"""One end of a WebRTC data channel, over aiortc or over wrtc.

Both speak standard SDP, ICE, DTLS and SCTP, so each end chooses for itself: wrtc (Chrome's
engine, the optional extra) where it is installed, aiortc (pure Python) otherwise. What the two
have to agree on, the size of a message, is in the SDP.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

Implementation = Literal["wrtc", "aiortc"]

#: An offer or an answer, as it travels: ``sdp`` and ``type``.
Description = dict[str, str]

#: One entry without urls: host candidates only. An empty list would count as unset in
#: hypha-rpc and fall back to a public STUN server.
HOST_CANDIDATES_ONLY: list[dict[str, Any]] = [{"urls": []}]

#: What a peer takes that does not say (RFC 8841), and the most that both libraries take.
DEFAULT_MESSAGE_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 256 * 1024

#: What hypha-rpc puts around a chunk, generously.
ENVELOPE_BYTES = 4 * 1024

#: A chunk that every peer takes.
RTC_CHUNK_BYTES = DEFAULT_MESSAGE_BYTES - ENVELOPE_BYTES

#: Above this a sender waits, until half of it is gone: enough to keep the fastest channel busy,
#: little enough that a heartbeat gets through a slow one. wrtc refuses to buffer above 16 MiB.
SEND_BUFFER_BYTES = 512 * 1024


def chunk_bytes(remote_sdp: str) -> int:
    """Return how large a chunk may be so that the peer with this SDP takes it in one message."""
    found = re.search(r"^a=max-message-size:(\d+)", remote_sdp, re.M)
    # Zero means that there is no limit.
    limit = (int(found[1]) or MAX_MESSAGE_BYTES) if found else DEFAULT_MESSAGE_BYTES
    return max(min(limit, MAX_MESSAGE_BYTES) - ENVELOPE_BYTES, RTC_CHUNK_BYTES)


class Channel(ABC):
    """A data channel in the shape that hypha-rpc's RPC wants its connection to have.

    hypha-rpc starts the clock of a call when its message was taken; here that is when the
    message has nearly left, so a slow link does not look like a silent service.
    """

    #: What hypha-rpc asks of a connection to a server; a peer has none.
    manager_id = None

    def __init__(self) -> None:
        self._receive: Callable[[Any], Any] | None = None
        self._disconnected: Callable[[str], None] | None = None
        self._room = asyncio.Event()
        self._sent_bytes = 0
        self._received_bytes = 0

    @property
    @abstractmethod
    def label(self) -> str:
        """The name the offering side gave the channel."""

    @abstractmethod
    def state(self) -> str:
        """Return connecting, open, closing or closed."""

    @abstractmethod
    def buffered_bytes(self) -> int:
        """Return how much was sent but has not left yet."""

    @abstractmethod
    def _send(self, message: bytes | str) -> None: ...

    async def emit_message(self, message: bytes | str) -> None:
        """Send, once there is room in the buffer; raise ConnectionError when it is closed."""
        while self.state() == "open" and self.buffered_bytes() > SEND_BUFFER_BYTES:
            self._room.clear()
            await self._room.wait()
        if self.state() != "open":
            raise ConnectionError(f"the data channel is {self.state()}")
        self._send(message)
        self._sent_bytes += len(message)

    def moved_bytes(self) -> int:
        """Return what was received, and sent and left, in whole messages."""
        return self._received_bytes + self._sent_bytes - self.buffered_bytes()

    def on_message(self, handler: Callable[[Any], Any]) -> None:
        """Set who gets the messages."""
        self._receive = handler

    def on_connected(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Take hypha-rpc's handler for reconnects; a data channel never makes one."""
        del handler

    def on_disconnected(self, handler: Callable[[str], None]) -> None:
        """Set who is told that the channel is closed."""
        self._disconnected = handler

    async def disconnect(self, reason: str | None = None) -> None:
        """Let go of the handlers; the peer closes the channel."""
        self._receive = self._disconnected = None
        self._room.set()

    def _received(self, message: bytes | str) -> None:
        self._received_bytes += len(message)
        if self._receive is not None:
            self._receive(message)

    def _closed(self) -> None:
        self._room.set()
        if self._disconnected is not None:
            self._disconnected("the data channel was closed")


class Peer(ABC):
    """One end of a connection with one channel: offer and accept, or answer; then close.

    ``on_channel`` gets the open channel before its first message, ``on_lost`` is called when
    the connection has failed or either side has closed it, perhaps more than once.
    """

    implementation: ClassVar[Implementation]

    def __init__(self, on_channel: Callable[[Channel], None], on_lost: Callable[[], None]) -> None:
        self._on_channel = on_channel
        self._on_lost = on_lost
        self._channel: Channel | None = None

    @abstractmethod
    async def offer(self, label: str) -> Description:
        """Return an offer of one channel, with all candidates."""

    @abstractmethod
    async def answer(self, offer: Description) -> Description:
        """Return the answer to an offer, with all candidates."""

    @abstractmethod
    async def accept(self, answer: Description) -> None:
        """Take the answer to the own offer."""

    @abstractmethod
    async def close(self) -> None:
        """Close channel and connection; may be called twice."""

    @abstractmethod
    def connection_state(self) -> str:
        """Return new, connecting, connected, disconnected, failed or closed."""

    @abstractmethod
    def progress(self) -> int:
        """Return a number of bytes that changes whenever some have moved."""

    def state(self) -> str:
        """Return connected when messages can be sent, else what is missing for it."""
        connection = self.connection_state()
        if connection in ("disconnected", "failed", "closed"):
            return connection
        channel = "missing" if self._channel is None else self._channel.state()
        if channel == "open":
            # wrtc may say so before it calls the connection connected.
            return "connected"
        return f"channel {channel}" if connection == "connected" else connection

    def _take_channel(self, channel: Channel) -> None:
        """Hand over the first channel; further ones that a peer opens lead nowhere."""
        if self._channel is None:
            self._channel = channel
            self._on_channel(channel)

    def _connection_changed(self) -> None:
        if self.connection_state() in ("failed", "closed"):
            self._on_lost()

    def _channel_closed(self, channel: Channel) -> None:
        channel._closed()
        if channel is self._channel:
            self._on_lost()
