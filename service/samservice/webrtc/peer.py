"""One end of a WebRTC data channel, with aiortc or wrtc.

Both implement standard SDP, ICE, DTLS and SCTP, so each end chooses its own: wrtc (Chrome's
engine, the optional extra) where it is installed, aiortc (pure Python) otherwise. The ends only
have to agree on the size of a message, which is in the SDP.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

Implementation = Literal["wrtc", "aiortc"]

#: An offer or an answer with the keys ``sdp`` and ``type``.
Description = dict[str, str]

#: One entry without urls: host candidates only. An empty list would count as unset in
#: hypha-rpc and fall back to a public STUN server.
HOST_CANDIDATES_ONLY: list[dict[str, Any]] = [{"urls": []}]

#: Message size of a peer that declares none (RFC 8841), and the largest of both libraries.
DEFAULT_MESSAGE_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 256 * 1024

#: Upper bound of the bytes that hypha-rpc adds to a chunk.
ENVELOPE_BYTES = 4 * 1024

#: A chunk size that every peer accepts.
RTC_CHUNK_BYTES = DEFAULT_MESSAGE_BYTES - ENVELOPE_BYTES

#: Above this a sender waits until half of it has left: enough to keep the fastest channel busy,
#: and small enough that a heartbeat gets through a slow one in time.
#: wrtc refuses to buffer above 16 MiB.
SEND_BUFFER_BYTES = 512 * 1024


def chunk_bytes(remote_sdp: str) -> int:
    """Return the largest chunk that the peer with this SDP accepts in one message."""
    found = re.search(r"^a=max-message-size:(\d+)", remote_sdp, re.M)
    # Zero means that there is no limit.
    limit = (int(found[1]) or MAX_MESSAGE_BYTES) if found else DEFAULT_MESSAGE_BYTES
    return max(min(limit, MAX_MESSAGE_BYTES) - ENVELOPE_BYTES, RTC_CHUNK_BYTES)


class Channel(ABC):
    """A data channel with the interface that hypha-rpc's RPC expects of its connection.

    hypha-rpc starts the timeout of a call when :meth:`emit_message` returns; here the message has
    nearly left by then, so that a slow link does not look like a silent service.
    """

    #: hypha-rpc reads it from a connection to a server; a peer has no manager.
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
        """The name that the offering side gave to the channel."""

    @abstractmethod
    def state(self) -> str:
        """Return ``connecting``, ``open``, ``closing`` or ``closed``."""

    @abstractmethod
    def buffered_bytes(self) -> int:
        """Return the number of bytes that were sent but have not left yet."""

    @abstractmethod
    def _send(self, message: bytes | str) -> None: ...

    async def emit_message(self, message: bytes | str) -> None:
        """Send when the buffer has room; raise ConnectionError when the channel is closed."""
        while self.state() == "open" and self.buffered_bytes() > SEND_BUFFER_BYTES:
            self._room.clear()
            await self._room.wait()
        if self.state() != "open":
            raise ConnectionError(f"the data channel is {self.state()}")
        self._send(message)
        self._sent_bytes += len(message)

    def moved_bytes(self) -> int:
        """Return the bytes of whole messages that were received, or sent and have left."""
        return self._received_bytes + self._sent_bytes - self.buffered_bytes()

    def on_message(self, handler: Callable[[Any], Any]) -> None:
        """Set the function that receives the messages."""
        self._receive = handler

    def on_connected(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Ignore hypha-rpc's handler for reconnections; a data channel never reconnects."""
        del handler

    def on_disconnected(self, handler: Callable[[str], None]) -> None:
        """Set the function that is called when the channel is closed."""
        self._disconnected = handler

    async def disconnect(self, reason: str | None = None) -> None:
        """Remove the handlers; the peer closes the channel."""
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
    """One end of a connection with one channel: call offer and accept, or answer; then close.

    ``on_channel`` receives the open channel before its first message. ``on_lost`` is called, maybe
    more than once, when the connection has failed or either side has closed it.
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
        """Apply the answer to the own offer."""

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
        """Return ``connected`` when messages can be sent, else the state that prevents it."""
        connection = self.connection_state()
        if connection in ("disconnected", "failed", "closed"):
            return connection
        channel = "missing" if self._channel is None else self._channel.state()
        if channel == "open":
            # wrtc may open the channel before it reports the connection as connected.
            return "connected"
        return f"channel {channel}" if connection == "connected" else connection

    def _take_channel(self, channel: Channel) -> None:
        """Pass on the first channel; ignore further channels that the other peer opens."""
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
