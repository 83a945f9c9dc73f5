"""Each defect: where it is, how it shows, and what of samcourier can go when it is mended."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import hypha_rpc.rpc
from hypha_rpc import connect_to_server
from hypha_rpc.websocket_client import WebsocketRPCConnection

from .stock import ANSWER_TIMEOUT_S, SILENCE_S, call, connections, stock_peer

LARGE_BYTES = 1_000_000
STOCK_CHUNK_BYTES = hypha_rpc.rpc.CHUNK_SIZE


@dataclass(frozen=True)
class Defect:
    """``is_there`` takes a Hypha server's URL and tells whether the defect still shows."""

    name: str
    package: str
    place: str
    workaround: str
    is_there: Callable[[str], Awaitable[bool]]


async def raises(text: str, work: Awaitable[object]) -> bool:
    """Tell whether ``work`` fails with this text; any other failure says nothing of the defect."""
    try:
        await work
    except Exception as error:
        if text not in str(error):
            raise
        return True
    return False


async def _times_out(work: Awaitable[object]) -> bool:
    try:
        await work
    except TimeoutError:
        return True
    return False


async def context_required(url: str) -> bool:
    """A request above one chunk fails, although its method needs no context (D1)."""
    async with stock_peer(url) as peer:
        return await raises("Context is required", call(peer, "easy", "count", bytes(LARGE_BYTES)))


async def context_missing(url: str) -> bool:
    """A method that needs the caller's context gets none (D2)."""
    async with stock_peer(url) as peer:
        return await raises("'context'", call(peer, "careful", "who_must"))


async def message_too_large(url: str) -> bool:
    """A chunk is larger than the peer takes: a reply above one chunk is never sent (D3)."""
    async with stock_peer(url, chunk_bytes=STOCK_CHUNK_BYTES) as peer:
        return await _times_out(call(peer, "easy", "fill", LARGE_BYTES, timeout_s=SILENCE_S))


async def reply_lost(url: str) -> bool:
    """A reply above one chunk arrives and is dropped by a caller without a user (D4)."""
    async with stock_peer(url, tells_user=False) as peer:
        return await _times_out(call(peer, "easy", "fill", LARGE_BYTES, timeout_s=SILENCE_S))


async def services_exposed(url: str) -> bool:
    """Every service of the connection is had over the channel, the offering one too."""
    async with stock_peer(url) as peer, asyncio.timeout(ANSWER_TIMEOUT_S):
        return not await raises("Service not found", peer.get_service("stock-rtc"))


async def context_forged(url: str) -> bool:
    """A ``context=`` that the peer sends is what the method is told of its caller."""
    async with stock_peer(url) as peer:
        forged = {"user": {"id": "somebody-else"}}
        return bool(await call(peer, "careful", "who", context=forged) == "somebody-else")


async def proxy_believes(url: str) -> bool:
    """A check by e-mail, as in BioEngine's proxy, passes for whoever writes the address.

    The mechanism; on a real worker it is shown by samcourier's ``make test-bioengine``.
    """
    async with stock_peer(url) as peer:
        forged = {"user": {"id": "owner@example.org", "email": "owner@example.org"}}
        return bool(await call(peer, "careful", "who_must", context=forged) == "owner@example.org")


async def naive_fix_breaks(url: str) -> bool:
    """Without ``require_context`` a method that needs the context fails over WebSocket too.

    So BioEngine's health check does, which calls ``get_load`` and ``get_num_pcs``.
    """
    async with connections(url) as (serving, calling):

        def get_load(*, context: object) -> float:
            return 0.0

        await serving.register_service({"id": "proxy", "get_load": get_load})
        service = await calling.get_service(f"{serving.rpc._client_id}:proxy")
        return await raises("'context'", service.get_load())


async def deflate_forced(url: str) -> bool:
    """The connection has no option to leave permessage-deflate out."""
    takes = inspect.signature(connect_to_server).parameters
    connection = WebsocketRPCConnection(url.replace("http", "ws"), "client")
    return "compression" not in {*takes, *connection._ws_connect_kwargs()}


async def calls_pend(url: str) -> bool:
    """A call under way when its connection is lost waits, although its answer is gone."""
    async with connections(url) as (serving, calling):

        async def rest() -> None:
            await asyncio.sleep(60)

        await serving.register_service({"id": "slow", "rest": rest})
        service = await calling.get_service(f"{serving.rpc._client_id}:slow")
        resting = asyncio.ensure_future(service.rest())
        await asyncio.sleep(0.5)
        calling.rpc._connection._websocket.transport.abort()
        done, _ = await asyncio.wait({resting}, timeout=SILENCE_S)
        resting.cancel()
        await asyncio.wait({resting})
        return not done


async def goodbye_waited_for(url: str) -> bool:
    """Disconnecting from a server that answers no more takes 5 s."""
    async with connections(url) as (_, calling):
        websocket = calling.rpc._connection._websocket
        websocket.transport.pause_reading()
        begun = time.monotonic()
        await calling.disconnect()
        took_s = time.monotonic() - begun
        websocket.transport.abort()
        return took_s > 3


async def timer_left(url: str) -> bool:
    """The timer of a call whose answer comes before the last chunk is acknowledged goes on."""
    async with connections(url) as (serving, calling):
        await serving.register_service({"id": "quick", "count": len})
        service = await calling.get_service(f"{serving.rpc._client_id}:quick")
        for _ in range(10):
            await service.count(bytes(LARGE_BYTES))
        await asyncio.sleep(0.5)
        names = [getattr(each.get_coro(), "__qualname__", "") for each in asyncio.all_tasks()]
        return "Timer._job" in names


async def handler_replaced(url: str) -> bool:
    """The event loop's exception handler is another one after a connection."""
    loop = asyncio.get_running_loop()

    def ours(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        loop.default_exception_handler(context)

    loop.set_exception_handler(ours)
    try:
        async with connections(url):
            pass
        return loop.get_exception_handler() is not ours
    finally:
        loop.set_exception_handler(None)


DEFECTS = (
    Defect(
        "context_required (D1)",
        "hypha-rpc",
        "webrtc_client._create_offer, rpc._services = server.rpc._services",
        "samservice/webrtc/endpoint.py",
        context_required,
    ),
    Defect(
        "context_missing (D2)",
        "hypha-rpc",
        "the same line",
        "samservice/webrtc/endpoint.py",
        context_missing,
    ),
    Defect(
        "message_too_large (D3)",
        "hypha-rpc",
        "rpc.CHUNK_SIZE",
        "chunk_bytes in samservice/webrtc/peer.py",
        message_too_large,
    ),
    Defect(
        "reply_lost (D4)",
        "hypha-rpc",
        "rpc._process_message",
        "default_context in transports/webrtc.py",
        reply_lost,
    ),
    Defect(
        "services exposed",
        "hypha-rpc",
        "webrtc_client._create_offer, the line of D1",
        "samservice/webrtc/endpoint.py",
        services_exposed,
    ),
    Defect(
        "context forged",
        "hypha-rpc",
        "rpc._handle_method, a method's own context= keyword",
        "PeerRPC in samservice/webrtc/endpoint.py",
        context_forged,
    ),
    Defect(
        "deflate forced",
        "hypha-rpc",
        "websocket_client._ws_connect_kwargs",
        "UncompressedConnection in samservice/hypha/connection.py",
        deflate_forced,
    ),
    Defect(
        "calls pend when lost",
        "hypha-rpc",
        "websocket_client._listen",
        "_fail_calls_when_lost in transports/session.py",
        calls_pend,
    ),
    Defect(
        "goodbye waited for",
        "hypha-rpc",
        "websocket_client.disconnect",
        "end_connection in samservice/hypha/connection.py",
        goodbye_waited_for,
    ),
    Defect(
        "timer left running",
        "hypha-rpc",
        "rpc.RemoteFunction, handle_result",
        "nothing",
        timer_left,
    ),
    Defect(
        "loop's handler replaced",
        "hypha-rpc",
        "rpc at disconnect, websocket_client at import",
        "the log filter in samservice/hypha/connection.py",
        handler_replaced,
    ),
    Defect(
        "proxy believes a forged caller",
        "BioEngine (mechanism)",
        "apps/proxy_deployment.py, its authorization",
        "trust_proxy_identity in service/deployment.py",
        proxy_believes,
    ),
    Defect(
        "naive fix breaks health check",
        "BioEngine (mechanism)",
        "apps/proxy_deployment.py without require_context",
        "nothing",
        naive_fix_breaks,
    ),
)
