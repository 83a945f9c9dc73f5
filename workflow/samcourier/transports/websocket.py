"""Calls through the Hypha server over its WebSocket, without permessage-deflate."""

from __future__ import annotations

import asyncio
from typing import Any

from .base import Endpoint
from .session import HyphaSession, call_remote
from .translate import translate_opening


def over_websocket(endpoint: Endpoint, session: HyphaSession) -> WebSocketTransport:
    """Build the WebSocket transport; see :mod:`.description`."""
    return WebSocketTransport(session, endpoint)


class WebSocketTransport:
    """The transport that works wherever a WebSocket to Hypha opens."""

    name = "websocket"

    def __init__(self, session: HyphaSession, endpoint: Endpoint | None = None) -> None:
        self._session = session
        self._endpoint = endpoint or session.endpoint
        self._service: Any = None

    async def open(self, timeout_s: float) -> None:
        """Connect and get the service, within ``timeout_s`` seconds.

        Raises TransportFailed, ServiceGone or Denied.
        """
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._session.server(timeout_s, self)
                self._service = await server.get_service(self._endpoint.service_id)
        except Exception as error:
            raise translate_opening(error, self.name, self._endpoint.token) from error

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the service within ``timeout_s`` seconds; see :class:`.base.Transport`."""
        return await call_remote(self._service, method, arguments, timeout_s, self.name)

    async def close(self) -> None:
        """Release the shared connection."""
        self._service = None
        await self._session.release(self)

    def progress(self) -> int:
        """Return the bytes that moved over the shared connection."""
        return self._session.progress()

    def state(self) -> str:
        """Return the state of the shared connection."""
        return self._session.state() if self._service is not None else "closed"
