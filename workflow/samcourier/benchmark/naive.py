"""A client that uses hypha-rpc with its default settings, the baseline of the comparison.

It negotiates deflate, has the default chunk size, and uses one connection for everything. A run
never uses it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypha_rpc import connect_to_server

from ..transports.base import Endpoint
from ..transports.session import call_remote
from ..transports.translate import translate


class NaiveTransport:
    """Calls the service as a simple script would: ``connect_to_server``, ``get_service``, call."""

    name = "naive"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: Any = None
        self._service: Any = None

    async def open(self, timeout_s: float) -> None:
        """Connect with hypha-rpc's defaults and get the service.

        Raises a :class:`samcourier.errors.CourierError` if this fails or takes over ``timeout_s``.
        """
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
        """Call ``method`` of the service and return its answer, within ``timeout_s``."""
        return await call_remote(self._service, method, arguments, timeout_s, self.name)

    def progress(self) -> int:
        """Return 0, since no watchdog observes this transport."""
        return 0

    def state(self) -> str:
        """Return "open" or "closed"."""
        return "closed" if self._service is None else "open"

    async def close(self) -> None:
        """Close the connection."""
        server, self._server, self._service = self._server, None, None
        if server is not None:
            await server.disconnect()
