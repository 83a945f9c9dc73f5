"""A guarded Hypha connection without permessage-deflate: the one place that opens one.

``websockets`` negotiates deflate by default, which costs three quarters of the time of a
2048 x 2048 image that is already compressed. hypha-rpc offers no option for it, so its
connection class is replaced by a subclass while connecting (the instance keeps it, so
reconnects stay uncompressed as well), which also mends how it reconnects. Its RPC is replaced
the same way, see :mod:`samservice.hypha.guarded_rpc`.
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
from .rate_limit import MessagePace
from .refusals import is_final

#: Best over WebSocket, and safe: a default peer buffers max(512 000, 2 x its own chunk) bytes.
WEBSOCKET_CHUNK_BYTES = 500_000

#: Between two attempts to connect again; each pause is twice the last. A service that is back only
#: long after its server would find its callers gone, which wait for half a minute.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0

#: A cancelled task ends within a turn of the event loop; this only bounds the wait for it.
TASK_END_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)

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

#: One a loop: a lock that was waited for belongs to its loop for good.
_connecting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class UncompressedConnection(websocket_client.WebsocketRPCConnection):  # type: ignore[misc]
    """hypha-rpc's WebSocket connection without permessage-deflate, which comes back when lost.

    By itself hypha-rpc (0.21.47) gives a lost connection up for good at any error that the server
    answers with, "Server busy, please retry" included, after 1024 attempts (its pause overflows),
    and, still connected, when the server did not take the services back.
    """

    #: In the server's words, why it does not take the lost connection back; None while it may.
    refusal: str | None = None
    is_reopening = False
    #: Not everyone may register; who never had services has none to take back.
    _had_services = False
    _websocket: Any
    _reconnection_token: str | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pace = MessagePace()

    async def emit_message(self, data: Any) -> None:
        """Send a message, not faster than Hypha takes them of one connection."""
        await self._pace.turn()
        await super().emit_message(data)

    async def open(self) -> Any:
        """Connect; once it was connected, go on until it is again or is refused for good."""
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
                logger.debug("not connected again", exc_info=True)
            else:
                self.refusal, self.is_reopening = None, False
                return opened
            await self._pause(pause_s * random.uniform(0.9, 1.1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        # Of all errors the one at which hypha-rpc does not pause and try again.
        raise ConnectionAbortedError("Connection is closed")

    async def _open_impl(self) -> Any:
        # Several may wait for it to come back.
        if self._websocket is not None and self._websocket.state is State.OPEN:
            return self.connection_info
        # The next connection brings its own, and these would go on over it.
        for task in (self._refresh_token_task, self._app_ping_task):
            if task is not None:
                task.cancel()
        try:
            return await super()._open_impl()
        except Exception:
            # What stays open would pass for a connection.
            if self.is_reopening and self._websocket is not None:
                self._websocket.transport.abort()
                self._websocket = None
            raise

    def _forget_reconnection_token(self) -> bool:
        """Tell whether the refusal may be the server's own token's, which ages while it is away."""
        was_shown = bool(self._reconnection_token and self._token)
        self._reconnection_token = None if was_shown else self._reconnection_token
        return was_shown

    async def _pause(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(asyncio.sleep(seconds))
        # Whoever closes the connection cancels these.
        self._reconnect_tasks.add(sleeping)
        try:
            await asyncio.wait({sleeping})
        finally:
            sleeping.cancel()
            self._reconnect_tasks.discard(sleeping)

    def on_connected(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Have ``handler`` register the services, without which a connection is none."""

        async def register(connection_info: Any) -> None:
            await handler(connection_info)
            if self._had_services and not self._services_registered_ok:
                raise ConnectionError("the server did not take the services back")

        super().on_connected(register)

    def _ws_connect_kwargs(self) -> dict[str, Any]:
        settings = {**super()._ws_connect_kwargs(), "compression": None}
        # websockets takes the site's proxy from the environment, which does not reach this host.
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

    A call that is given neither an answer nor a heartbeat for ``silence_timeout_s`` fails.
    Raises whatever hypha-rpc raises; the callers translate it.
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
    """End hypha-rpc's connection for good, waiting ``wait_s`` at most for the server's goodbye.

    By itself hypha-rpc waits 5 s for a goodbye, and without limit for its own task that looks for
    the manager of a server that is gone: told of a failure before it is cancelled, it tries again.
    """
    # Nothing may reconnect from here on.
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
        # A reconnection that was under way may have made another.
        if connection._websocket is not None:
            connection._websocket.transport.abort()
