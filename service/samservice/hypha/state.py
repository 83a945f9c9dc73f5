"""The state of a connection to a Hypha server: whether it answers, and how many bytes moved."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from ..contract.wire import MOVED_MIN_BYTES


async def answers(server: Any, timeout_s: float) -> bool:
    """Return True if the Hypha server answers a WebSocket ping within ``timeout_s``.

    A ping waits behind a large message that is being sent, so moving bytes also count as an answer.
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
    """Return the state of the WebSocket as websockets names it, e.g. ``open``."""
    websocket = _websocket(server)
    return "closed" if websocket is None else str(websocket.state.name).lower()


def is_refused(server: Any) -> bool:
    """Return True if the server finally refused the connection, which is not tried again."""
    return bool(server.rpc._connection._closed)


def is_connected(server: Any) -> bool:
    """Return True if the connection is open and not in the course of a reconnection."""
    return connection_state(server) == "open" and not server.rpc._connection.is_reopening


def refusal(server: Any) -> str | None:
    """Return the server's message if it refused the last reconnection, else None.

    The connection is tried again unless :func:`is_refused`.
    """
    message: str | None = server.rpc._connection.refusal
    return message


def moved_bytes(server: Any) -> int:
    """Return the number of received bytes plus sent bytes that the other end's kernel acknowledged.

    Source: Linux's ``struct tcp_info`` (linux/tcp.h); 0 where it is not available.
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
