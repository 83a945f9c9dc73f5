"""One Hypha WebSocket connection per process, shared by calls and by WebRTC's signalling.

hypha-rpc is imported when the connection is opened, because its import takes 0.25 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from samservice.hypha.refusals import explain_refusal
from samservice.hypha.state import answers, connection_state, moved_bytes

from ..errors import Denied, RequestRefused, TransportFailed
from .base import Endpoint
from .translate import translate, translate_opening

#: A healthy server confirms the closing of a connection within one round trip.
CLOSE_TIMEOUT_S = 0.5

#: A reachable server answers the ping of a WebSocket at once.
ANSWER_TIMEOUT_S = 2.0

#: hypha-rpc gives up a call after this long without an answer or its own heartbeat. The value is
#: above ``Policy.silence_alone_s``, so that the watchdog of the transports decides first.
SILENCE_TIMEOUT_S = 180.0


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Restore the program's root logger, which the import of hypha-rpc changes."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class HyphaSession:
    """Opens the connection for its first user, shares it, and closes it after its last user."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._server: Any = None
        self._users: set[object] = set()
        self._opening = asyncio.Lock()

    async def server(self, timeout_s: float, user: object) -> Any:
        """Return hypha-rpc's server object for ``user``, within ``timeout_s`` seconds.

        A connection that no longer answers is closed and opened again. Raises TransportFailed or
        Denied.
        """
        async with self._opening:
            if self._server is not None and not await answers(self._server, ANSWER_TIMEOUT_S):
                await self._disconnect()
            if self._server is None:
                self._server = await self._open(timeout_s)
            self._users.add(user)
            return self._server

    async def _open(self, timeout_s: float) -> Any:
        from websockets.exceptions import InvalidStatus

        with root_logger_kept():
            from samservice.hypha.connection import connect

        try:
            async with asyncio.timeout(timeout_s):
                server = await connect(
                    self.endpoint.server_url,
                    token=self.endpoint.token,
                    workspace=self.endpoint.workspace,
                    ca_bundle=self.endpoint.network.ca_bundle,
                    silence_timeout_s=SILENCE_TIMEOUT_S,
                )
                _fail_calls_when_lost(server)
                return server
        except InvalidStatus as error:
            # Hypha accepts every upgrade and refuses a token afterwards. So this status comes from
            # a proxy or firewall, which may still accept HTTP.
            translated = translate_opening(error, "websocket")
            if isinstance(translated, Denied):
                translated = TransportFailed(str(translated), name=translated.name)
            raise translated from error
        except Exception as error:
            translated = translate_opening(error, "websocket")
            if isinstance(translated, Denied):
                why = explain_refusal(str(error), self.endpoint.token)
                raise Denied(
                    f"{self.endpoint.server_url} refuses workspace {self.endpoint.workspace!r}: "
                    f"{why or f'{translated}; check the token'}",
                    name=translated.name,
                ) from error
            raise translated from error

    def progress(self) -> int:
        """Return how many bytes the kernel knows to have arrived, in both directions."""
        return 0 if self._server is None else moved_bytes(self._server)

    def state(self) -> str:
        """Return the state of the connection, in the terms of websockets."""
        return "closed" if self._server is None else connection_state(self._server)

    async def release(self, user: object) -> None:
        """Remove ``user``, and close the connection after its last user."""
        self._users.discard(user)
        if not self._users:
            await self._disconnect()

    async def _disconnect(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            from samservice.hypha.connection import end_connection

            connection = server.rpc._connection
            if connection is not None:
                await end_connection(connection, CLOSE_TIMEOUT_S)


def _fail_calls_when_lost(server: Any) -> None:
    """Make a lost connection fail its calls, which hypha-rpc would leave to their deadline.

    hypha-rpc reconnects by itself, but the answers in transit are lost.
    """
    from websockets.protocol import State

    rpc, connection = server.rpc, server.rpc._connection

    def on_disconnected(reason: str | None = None) -> None:
        protocol = getattr(connection._websocket, "protocol", None)
        closed = protocol.close_exc if protocol and protocol.state is State.CLOSED else "closed"
        rpc._reject_pending_calls(f"Connection lost: {reason or closed}")

    connection.on_disconnected(on_disconnected)


async def list_services(server: Any, endpoint: Endpoint) -> list[str]:
    """Return the full ids of the services registered under the endpoint's name, sorted.

    Raises TransportFailed (also when the server itself fails), Overloaded or Denied.
    """
    workspace = endpoint.workspace or server.config["workspace"]
    prefix, _, name = f"{workspace}/{endpoint.service_id}".rpartition("/")
    query = {"workspace": prefix.rpartition("/")[2], "service_id": name}
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            found = await server.list_services(query)
    except Exception as error:
        raise translate_opening(error, "websocket", endpoint.token) from error
    return sorted(str(each["id"]) for each in found)


async def call_remote(
    service: Any, method: str, arguments: dict[str, Any], timeout_s: float, transport: str
) -> Any:
    """Call a method of a hypha-rpc service object, and translate its errors.

    Args:
        service: The service object, None after its transport was closed.
        method: The name of the method.
        arguments: Its keyword arguments.
        timeout_s: The deadline of the call, in seconds.
        transport: The name of the transport for error messages.

    Raises a failure class of :mod:`samcourier.errors`.
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
