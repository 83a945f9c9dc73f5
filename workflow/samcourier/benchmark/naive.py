"""hypha-rpc just as it comes, the baseline that the other transports are measured against.

Deflate is negotiated, chunks have the default size, one connection carries everything. Never
used by a run.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypha_rpc import connect_to_server

from ..transports.base import Endpoint
from ..transports.session import call_remote
from ..transports.translate import translate


class NaiveTransport:
    """What a script does: ``connect_to_server``, ``get_service``, call."""

    name = "naive"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: Any = None
        self._service: Any = None

    async def open(self, timeout_s: float) -> None:
        """Connect with hypha-rpc's defaults and look the service up."""
        settings = {
            "server_url": self._endpoint.server_url,
            "token": self._endpoint.token,
            "workspace": self._endpoint.workspace,
        }
        try:
            async with asyncio.timeout(timeout_s):
                self._server = await connect_to_server(
                    {name: value for name, value in settings.items() if value is not None}
                )
                self._service = await self._server.get_service(self._endpoint.service_id)
        except Exception as error:
            await self.close()
            raise translate(error, self.name) from error

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the service, within ``timeout_s``."""
        return await call_remote(self._service, method, arguments, timeout_s, self.name)

    def progress(self) -> int:
        """Nobody watches this transport."""
        return 0

    def state(self) -> str:
        """Tell whether it is open."""
        return "closed" if self._service is None else "open"

    async def close(self) -> None:
        """Close the connection."""
        server, self._server, self._service = self._server, None, None
        if server is not None:
            await server.disconnect()
