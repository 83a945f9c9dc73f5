"""What is known of a connection to a Hypha server: whether it answers, and what moved over it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from ..contract.wire import MOVED_MIN_BYTES


async def answers(server: Any, timeout_s: float) -> bool:
    """Tell whether the Hypha server answers a WebSocket ping over this connection.

    Behind a large message of our own a ping waits longer: bytes that move are an answer as well.
    """
    moved_before = moved_bytes(server)
    try:
        async with asyncio.timeout(timeout_s):
            await (await _websocket(server).ping())
    except TimeoutError:
        return moved_bytes(server) - moved_before >= MOVED_MIN_BYTES
    except Exception:
        return False
    return True


def connection_state(server: Any) -> str:
    """Return the state of the WebSocket in the words of websockets, e.g. ``open``."""
    websocket = _websocket(server)
    return "closed" if websocket is None else str(websocket.state.name).lower()


def is_refused(server: Any) -> bool:
    """Tell whether the connection is given up, because the server refuses it for good."""
    return bool(server.rpc._connection._closed)


def is_connected(server: Any) -> bool:
    """Tell whether the connection is there, and not just being made again."""
    return connection_state(server) == "open" and not server.rpc._connection.is_reopening


def refusal(server: Any) -> str | None:
    """Return in the server's words why it does not take a lost connection back, None while it may.

    Unless :func:`is_refused`, it is asked again.
    """
    said: str | None = server.rpc._connection.refusal
    return said


def moved_bytes(server: Any) -> int:
    """Return the bytes received, and those sent whose receipt the other end's kernel confirmed.

    From Linux's ``struct tcp_info`` (linux/tcp.h); 0 where the kernel does not tell.
    """
    websocket = _websocket(server)
    transport = None if websocket is None else websocket.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None:
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(sum(_ACKED_AND_RECEIVED.unpack_from(info, _ACKED_OFFSET)))
    except (AttributeError, OSError, struct.error):
        return 0


def _websocket(server: Any) -> Any:
    connection = server.rpc._connection
    return None if connection is None else connection._websocket


_TCP_INFO_BYTES = 256
#: tcpi_bytes_acked and tcpi_bytes_received, 64 bits each, after 8 single bytes, 24 words and two
#: rates of 64 bits.
_ACKED_OFFSET = 8 + 24 * 4 + 2 * 8
_ACKED_AND_RECEIVED = struct.Struct("=QQ")
