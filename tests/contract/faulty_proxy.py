"""A TCP proxy for one server that can stall, reset, cut, be slow, or answer in its place."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

READ_BYTES = 1 << 16
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Fault:
    """What happens to every connection once ``after_bytes`` more went ``direction``.

    ``stall`` keeps the sockets open and moves nothing (half-open TCP), ``reset`` sends RST to both
    sides, ``cut`` ends the connection in an orderly way.
    """

    kind: Literal["stall", "reset", "cut"]
    direction: Direction
    after_bytes: int = 0


class FaultyProxy:
    """Forwards to ``target_url``, whose port may change; a fault lasts until :meth:`heal`."""

    def __init__(self, target_url: str) -> None:
        self.target_url = target_url
        self.url = ""
        #: Connections that the client side has not ended yet.
        self.open_connections = 0
        #: What a connection carries from the client; None for as fast as it goes.
        self.up_bytes_per_s: float | None = None
        self._fault: Fault | None = None
        self._left_bytes = 0
        self._healed = asyncio.Event()
        self._instead: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        port = urlsplit(self.url).port or 0
        self._server = await asyncio.start_server(self._serve_one, "127.0.0.1", port)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"

    async def refuse(self) -> None:
        """Refuse connections and end those that are open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_with(self, fault: Fault) -> None:
        """Arm ``fault`` for the bytes that come from now on."""
        self._fault, self._left_bytes = fault, fault.after_bytes
        self._healed.clear()

    @property
    def is_stalling(self) -> bool:
        """Whether bytes are held back right now."""
        return self._fault is not None and self._fault.kind == "stall" and self._left_bytes < 0

    def answer_with(self, answer: bytes) -> None:
        """Answer the next bytes of any client with these and end the connection."""
        self._instead = answer

    def heal(self) -> None:
        """Forward faithfully again; what was stalled goes on."""
        self._fault = self._instead = None
        self._healed.set()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            await self._forward_both_ways(reader, writer)
        except (OSError, asyncio.CancelledError):
            # Its task is the proxy's own, and asyncio's streams report a cancelled one as an error.
            pass
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.transport.abort()

    async def _forward_both_ways(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._instead is not None:
            await self._answer_instead(reader, writer)
            return
        port = urlsplit(self.target_url).port
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        ends = (writer, far_writer)
        ways = [
            asyncio.ensure_future(self._pump("up", reader, far_writer, ends)),
            asyncio.ensure_future(self._pump("down", far_reader, writer, ends)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if not writer.transport.is_closing():
                with suppress(OSError):
                    await writer.drain()
                    writer.write_eof()
            far_writer.transport.abort()

    async def _pump(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        while data := await reader.read(READ_BYTES):
            if self._instead is not None and direction == "up":
                await self._answer_instead(reader, ends[0])
                return
            fault = self._fault
            if fault is not None and fault.direction == direction:
                passed = data[: max(self._left_bytes, 0)]
                self._left_bytes -= len(data)
                if self._left_bytes < 0:
                    writer.write(passed)
                    if await self._strike(fault, ends):
                        return
                    data = data[len(passed) :]
            elif self.is_stalling:
                await self._healed.wait()
            writer.write(data)
            await writer.drain()
            if self.up_bytes_per_s is not None and direction == "up":
                await asyncio.sleep(len(data) / self.up_bytes_per_s)

    async def _strike(
        self, fault: Fault, ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    ) -> bool:
        """Let the fault happen; True when the connection is no more."""
        if fault.kind == "stall":
            await self._healed.wait()
            return False
        for end in ends if fault.kind == "reset" else ():
            reset_on_close = struct.pack("ii", 1, 0)
            end.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close
            )
            end.transport.abort()
        return True

    async def _answer_instead(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert self._instead is not None
        writer.write(self._instead)
        await writer.drain()
        writer.write_eof()
        # A client that is cut off while it still sends may never see the answer.
        while await reader.read(READ_BYTES):
            pass


@asynccontextmanager
async def faulty_proxy(target_url: str) -> AsyncIterator[FaultyProxy]:
    """Run a proxy on a free loopback port."""
    proxy = FaultyProxy(target_url)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.heal()
        await proxy.refuse()


async def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether ``condition`` came true within ``timeout_s``."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    return condition()


def http_answer(status: str, body: bytes, content_type: str, length: int | None = None) -> bytes:
    """Return an HTTP/1.1 answer; ``length`` other than that of the body makes it a lie."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
