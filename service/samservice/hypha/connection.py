"""Open a guarded Hypha connection without permessage-deflate; only this module opens one.

``websockets`` negotiates deflate by default, which costs three quarters of the time of a
2048 x 2048 image that is already compressed. hypha-rpc offers no option for it, so its
connection class is replaced by a subclass while connecting (the instance keeps it, so
reconnections stay uncompressed as well). The subclass also fixes the reconnection. The RPC class
is replaced in the same manner, see :mod:`samservice.hypha.guarded_rpc`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from websockets.protocol import State

from .guarded_rpc import GuardedRPC
from .lean_rpc import websocket_client
from .network import is_loopback, tls_context
from .rate_limit import MessageRateLimiter
from .refusals import is_final

#: The fastest size over WebSocket, and safe: a default peer buffers max(512 000, 2 x its own chunk)
#: bytes.
WEBSOCKET_CHUNK_BYTES = 500_000

#: Pauses between attempts to reconnect; each is twice the last. Callers wait for half a minute, so
#: the service must reconnect soon after its server has restarted.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0

#: A cancelled task normally ends in the next iteration of the event loop; this bounds the wait.
TASK_END_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)

# hypha-rpc logs every closed connection; the caller receives a more precise error.
for _name in ("RPC", "websocket-client", "webrtc-client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


_UNHANDLED_MESSAGES = (
    "RemoteFunction.__call__",
    "Failed to send the request when",
    "WebRTC Connection closed",
)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for errors that hypha-rpc leaves unhandled when a peer disconnects."""
    text = record.getMessage()
    return not any(message in text for message in _UNHANDLED_MESSAGES)


logging.getLogger("asyncio").addFilter(_is_worth_logging)

#: One lock per event loop: a lock that a task waited for is bound to its loop permanently.
_connecting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class UncompressedConnection(websocket_client.WebsocketRPCConnection):  # type: ignore[misc]
    """hypha-rpc's WebSocket connection without permessage-deflate and with reliable reconnection.

    hypha-rpc (0.21.47) stops reconnecting in three cases: at any error message of the server,
    "Server busy, please retry" included; after 1024 attempts, when its pause overflows; and when
    the connection is open but the server did not register the services again.
    """

    #: The server's message when it refuses the reconnection; None while it has not refused.
    refusal: str | None = None
    is_reopening = False
    #: A client without services need not register any again, and may have no right to.
    _had_services = False
    _websocket: Any
    _reconnection_token: str | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._rate_limiter = MessageRateLimiter()

    async def emit_message(self, data: Any) -> None:
        """Send a message, within Hypha's rate limit for one connection."""
        await self._rate_limiter.wait()
        await super().emit_message(data)

    async def open(self) -> Any:
        """Connect. After a lost connection, try until it is restored or finally refused.

        Raises ConnectionAbortedError for a final refusal and for a closed connection.
        """
        if self.connection_info is None:
            return await super().open()
        if not self.is_reopening:
            self._had_services = getattr(self, "_services_registered_ok", False)
        self.is_reopening, pause_s = True, FIRST_PAUSE_S
        while not self._closed:
            try:
                opened = await super().open()
            except ConnectionAbortedError as error:
                self.refusal = str(error)
                if is_final(self.refusal) and not self._forget_reconnection_token():
                    raise
            except Exception:
                logger.debug("an attempt to reconnect failed", exc_info=True)
            else:
                self.refusal, self.is_reopening = None, False
                return opened
            await self._pause(pause_s * random.uniform(0.9, 1.1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        # At this error alone hypha-rpc does not pause and try again.
        raise ConnectionAbortedError("Connection is closed")

    async def _open_impl(self) -> Any:
        # Several tasks may wait for the reconnection; another one may have made it.
        if self._websocket is not None and self._websocket.state is State.OPEN:
            return self.connection_info
        # The next connection starts its own tasks; the old ones would continue on it.
        for task in (self._refresh_token_task, self._app_ping_task):
            if task is not None:
                task.cancel()
        try:
            return await super()._open_impl()
        except Exception:
            # A WebSocket left open would count as a connection.
            if self.is_reopening and self._websocket is not None:
                self._websocket.transport.abort()
                self._websocket = None
            raise

    def _forget_reconnection_token(self) -> bool:
        """Drop the reconnection token; return True if the own token can replace it.

        The server issues the reconnection token, which can expire while the server is down.
        """
        was_used = bool(self._reconnection_token and self._token)
        self._reconnection_token = None if was_used else self._reconnection_token
        return was_used

    async def _pause(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(asyncio.sleep(seconds))
        # hypha-rpc cancels these tasks when the connection is closed.
        self._reconnect_tasks.add(sleeping)
        try:
            await asyncio.wait({sleeping})
        finally:
            sleeping.cancel()
            self._reconnect_tasks.discard(sleeping)

    def on_connected(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Call ``handler`` after each connection; it registers the services.

        A reconnection after which the services are not registered counts as failed.
        """

        async def register(connection_info: Any) -> None:
            await handler(connection_info)
            if self._had_services and not self._services_registered_ok:
                raise ConnectionError("the server did not register the services again")

        super().on_connected(register)

    def _ws_connect_kwargs(self) -> dict[str, Any]:
        settings = {**super()._ws_connect_kwargs(), "compression": None}
        # websockets uses the proxy of the environment, which cannot reach this host itself.
        return settings | {"proxy": None} if is_loopback(self._server_url) else settings


async def connect(
    server_url: str,
    *,
    token: str | None = None,
    workspace: str | None = None,
    client_id: str | None = None,
    silence_timeout_s: float = 10.0,
    ca_bundle: Path | None = None,
) -> Any:
    """Connect to a Hypha server and return hypha-rpc's server object.

    A call without answer and heartbeat for ``silence_timeout_s`` fails. ``ca_bundle`` is a file of
    the certificates to trust, by default the system's.

    Raises hypha-rpc's own errors; the callers translate them.
    """
    settings = {
        "server_url": server_url,
        "token": token,
        "workspace": workspace,
        "client_id": client_id,
        "method_timeout": silence_timeout_s,
        "long_message_chunk_size": WEBSOCKET_CHUNK_BYTES,
        "ssl": tls_context(ca_bundle) if server_url.startswith("https:") else None,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    made: list[UncompressedConnection] = []

    def make(*arguments: Any, **options: Any) -> UncompressedConnection:
        made.append(UncompressedConnection(*arguments, **options))
        return made[-1]

    async with _connecting.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        stock = websocket_client.WebsocketRPCConnection, websocket_client.RPC
        websocket_client.WebsocketRPCConnection, websocket_client.RPC = make, GuardedRPC
        try:
            return await websocket_client.connect_to_server(given)
        except BaseException:
            for connection in made:
                await end_connection(connection, wait_s=0)
            raise
        finally:
            websocket_client.WebsocketRPCConnection, websocket_client.RPC = stock


async def end_connection(connection: Any, wait_s: float) -> None:
    """Close hypha-rpc's connection finally, waiting ``wait_s`` at most for the closing handshake.

    hypha-rpc itself waits 5 s for the handshake, and without limit for its own task that looks for
    the manager of a lost server: if a failure reaches that task before its cancellation, it tries
    again.
    """
    # From here on no task may reconnect.
    connection._closed = True
    rpc = getattr(connection._handle_message, "__self__", None)
    tasks = list(rpc._background_tasks) if rpc is not None else []
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=TASK_END_TIMEOUT_S)
    websocket = connection._websocket
    loop = asyncio.get_running_loop()
    aborting = loop.call_later(wait_s, websocket.transport.abort) if websocket is not None else None
    try:
        await (rpc or connection).disconnect()
    finally:
        if aborting is not None:
            aborting.cancel()
        # A concurrent reconnection may have opened another WebSocket.
        if connection._websocket is not None:
            connection._websocket.transport.abort()
