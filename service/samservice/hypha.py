"""A Hypha connection without permessage-deflate: the one place that opens one.

``websockets`` negotiates deflate by default, which costs three quarters of the time of a
2048 x 2048 image that is already compressed. hypha-rpc offers no option for it, so its
connection class is replaced by a subclass while connecting (the instance keeps it, so
reconnects stay uncompressed as well).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hypha_rpc import websocket_client

#: Best over WebSocket, and safe: a default peer buffers max(512 000, 2 x its own chunk) bytes.
WEBSOCKET_CHUNK_BYTES = 500_000

# hypha-rpc logs every closed connection; who calls gets an error that says more.
for _name in ("RPC", "websocket-client", "webrtc-client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


_LEFT_BEHIND = (
    "RemoteFunction.__call__",
    "Failed to send the request when",
    "WebRTC Connection closed",
)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Drop what hypha-rpc leaves to the event loop when a peer goes away under a message."""
    text = record.getMessage()
    return not any(said in text for said in _LEFT_BEHIND)


logging.getLogger("asyncio").addFilter(_is_worth_logging)

_connecting = asyncio.Lock()


class UncompressedConnection(websocket_client.WebsocketRPCConnection):  # type: ignore[misc]
    """hypha-rpc's WebSocket connection that does not offer permessage-deflate."""

    def _ws_connect_kwargs(self) -> dict[str, Any]:
        return {**super()._ws_connect_kwargs(), "compression": None}


async def connect(
    server_url: str,
    *,
    token: str | None = None,
    workspace: str | None = None,
    client_id: str | None = None,
    timeout_s: float = 10.0,
) -> Any:
    """Connect to a Hypha server and return hypha-rpc's server object.

    Raises whatever hypha-rpc raises; the callers translate it.
    """
    settings = {
        "server_url": server_url,
        "token": token,
        "workspace": workspace,
        "client_id": client_id,
        "method_timeout": timeout_s,
        "long_message_chunk_size": WEBSOCKET_CHUNK_BYTES,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    async with _connecting:
        stock = websocket_client.WebsocketRPCConnection
        websocket_client.WebsocketRPCConnection = UncompressedConnection
        try:
            return await websocket_client.connect_to_server(given)
        finally:
            websocket_client.WebsocketRPCConnection = stock
