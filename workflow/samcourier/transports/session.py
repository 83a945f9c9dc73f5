"""One Hypha WebSocket connection per process, shared by calls and by WebRTC's signalling."""

from __future__ import annotations

import asyncio
from typing import Any

from samservice.hypha import connect

from ..errors import Denied, RequestRefused, TransportFailed
from .base import Endpoint
from .translate import translate


class HyphaSession:
    """Opens the connection when first asked, hands it to everybody, closes it once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._server: Any = None
        self._opening = asyncio.Lock()

    async def server(self, timeout_s: float) -> Any:
        """Return hypha-rpc's server object; raise TransportFailed or Denied."""
        async with self._opening:
            if self._server is None:
                self._server = await self._open(timeout_s)
            return self._server

    async def _open(self, timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await connect(
                    self.endpoint.server_url,
                    token=self.endpoint.token,
                    workspace=self.endpoint.workspace,
                )
        except Exception as error:
            translated = translate(error, "websocket")
            if isinstance(translated, Denied):
                raise Denied(
                    f"{self.endpoint.server_url} refuses workspace {self.endpoint.workspace!r}: "
                    f"{translated}; check the token",
                    name=translated.name,
                ) from error
            raise translated from error

    async def close(self) -> None:
        """Close the connection, if any; the next :meth:`server` opens a new one."""
        server, self._server = self._server, None
        if server is not None:
            await server.disconnect()


async def call_remote(
    service: Any, method: str, arguments: dict[str, Any], timeout_s: float, transport: str
) -> Any:
    """Call a method of a hypha-rpc service object, within ``timeout_s``, translating errors.

    ``service`` is None once its transport was closed.
    """
    if service is None:
        raise TransportFailed(f"{transport}: the connection is closed")
    if method not in service:
        raise RequestRefused(f"the service has no method {method!r}", name="NoSuchMethod")
    try:
        async with asyncio.timeout(timeout_s):
            return await service[method](**arguments)
    except Exception as error:
        raise translate(error, transport) from error
