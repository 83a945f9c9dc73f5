"""What becomes of an opening or a call when network, server or service really fail under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.transports import Endpoint, HyphaSession, Transport, WebSocketTransport

from .faulty_proxy import Fault, FaultyProxy, faulty_proxy, http_answer, wait_until
from .real_world import (
    AT_ONCE_S,
    BUILD,
    DEADLINE_S,
    MARGIN_S,
    OPEN_TIMEOUT_S,
    ROOT_TOKEN,
    assert_works,
    failure_within,
    scripted_service,
)

pytestmark = pytest.mark.live

LARGE_BYTES = 3_000_000
#: Past the first of the large message, with more to come.
SOME_BYTES = 200_000

UPLOAD = ("probe", {"payload": bytes(LARGE_BYTES), "reply_bytes": 0})
WAIT = ("hold", {"seconds": 0.2})
REPLY = ("probe", {"payload": b"", "reply_bytes": LARGE_BYTES})
NO_REPLY = ("hold", {"seconds": 3600})


@pytest.fixture(params=BUILD)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def transport(name: str, proxied: Endpoint, proxy: FaultyProxy) -> AsyncIterator[Transport]:
    """A transport through the proxy, not open yet, that has to recover when all is well again."""
    built = BUILD[name](proxied)
    yield built
    await closes_in_time(built)
    proxy.heal()
    try:
        await assert_works(built)
    finally:
        await closes_in_time(built)
    assert await wait_until(lambda: proxy.open_connections == 0, MARGIN_S), "a connection is left"


async def closes_in_time(transport: Transport) -> None:
    start_s = time.monotonic()
    await transport.close()
    assert time.monotonic() - start_s < MARGIN_S, "closing waits for a broken connection"


RELAYED = pytest.mark.parametrize("name", ["websocket", "http"], indirect=True)
OVER_HTTP = pytest.mark.parametrize("name", ["http"], indirect=True)


@RELAYED
@pytest.mark.parametrize("kind", ["stall", "reset", "cut"])
@pytest.mark.parametrize(
    ("call", "direction", "after_bytes"),
    [(UPLOAD, "up", SOME_BYTES), (WAIT, "down", 0), (REPLY, "down", SOME_BYTES)],
    ids=["upload", "waiting", "reply"],
)
async def test_a_call_over_a_broken_connection_is_a_lost_transport(
    transport: Transport,
    proxy: FaultyProxy,
    call: tuple[str, dict[str, Any]],
    direction: Any,
    after_bytes: int,
    kind: Any,
) -> None:
    await transport.open(OPEN_TIMEOUT_S)
    proxy.break_with(Fault(kind, direction, after_bytes))
    if kind == "stall":
        failure = await failure_within(DEADLINE_S, transport.call(*call, DEADLINE_S))
    else:
        failure = await failure_within(AT_ONCE_S, transport.call(*call, OPEN_TIMEOUT_S))
    assert failure.kind == "transport", failure


REQUEST, ANSWER, AFTER_UPGRADE, LATER = ("up", 0), ("down", 0), ("down", 300), ("down", 2500)


@pytest.mark.parametrize("kind", ["stall", "reset"])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        *(("websocket", where) for where in (REQUEST, ANSWER, AFTER_UPGRADE, LATER)),
        *(("webrtc", where) for where in (ANSWER, AFTER_UPGRADE, LATER)),
        *(("http", where) for where in (REQUEST, ANSWER)),
    ],
    indirect=["name"],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-after-{value[1]}",
)
async def test_opening_over_a_broken_connection_is_a_lost_transport(
    transport: Transport, proxy: FaultyProxy, where: tuple[Any, int], kind: Any
) -> None:
    proxy.break_with(Fault(kind, *where))
    failure = await failure_within(DEADLINE_S, transport.open(DEADLINE_S))
    assert failure.kind == "transport", failure


async def test_a_refused_connection_is_lost_on_the_way(
    transport: Transport, proxy: FaultyProxy
) -> None:
    await proxy.refuse()
    failure = await failure_within(AT_ONCE_S, transport.open(OPEN_TIMEOUT_S))
    await proxy.listen()
    assert failure.kind == "transport", failure


async def test_a_connection_that_is_busy_with_our_own_upload_is_not_taken_for_dead(
    proxied: Endpoint, proxy: FaultyProxy
) -> None:
    session = HyphaSession(proxied)
    transport = WebSocketTransport(session)
    await transport.open(OPEN_TIMEOUT_S)
    proxy.up_bytes_per_s = 2e6
    payload = bytes(16_000_000)
    uploading = asyncio.ensure_future(
        transport.call("probe", {"payload": payload, "reply_bytes": 0}, 60.0)
    )
    await asyncio.sleep(0.5)
    # As every look for replicas and every opening of WebRTC asks for it: a ping has to wait.
    asker = object()
    await session.server(OPEN_TIMEOUT_S, asker)
    assert not uploading.done(), "the upload was too fast, or its connection was closed"
    assert (await uploading)["received_bytes"] == len(payload)
    await session.release(asker)
    await transport.close()


@pytest.mark.parametrize("name", ["websocket"], indirect=True)
@pytest.mark.parametrize("after_bytes", [0, 300, 2500])
async def test_closing_ends_a_reconnection_under_way(
    transport: Transport, proxy: FaultyProxy, after_bytes: int
) -> None:
    await transport.open(OPEN_TIMEOUT_S)
    proxy.break_with(Fault("reset", "down", 0))
    await failure_within(AT_ONCE_S, transport.call(*WAIT, OPEN_TIMEOUT_S))
    proxy.break_with(Fault("stall", "down", after_bytes))
    assert await wait_until(lambda: proxy.is_stalling, OPEN_TIMEOUT_S)


async def test_an_open_channel_does_not_need_the_server(
    proxied: Endpoint, proxy: FaultyProxy
) -> None:
    transport = BUILD["webrtc"](proxied)
    await transport.open(OPEN_TIMEOUT_S)
    await proxy.refuse()
    assert await transport.call("hold", {"seconds": 0.5}, OPEN_TIMEOUT_S) == "held for 0.5 s"
    await closes_in_time(transport)


async def test_a_service_that_never_replies_costs_no_more_than_the_deadline(
    transport: Transport,
) -> None:
    await transport.open(OPEN_TIMEOUT_S)
    failure = await failure_within(DEADLINE_S, transport.call(*NO_REPLY, DEADLINE_S))
    assert (failure.kind, failure.name) == ("transport", "TimeoutError")


async def test_a_late_reply_does_no_harm_to_the_next_call(transport: Transport) -> None:
    await transport.open(OPEN_TIMEOUT_S)
    late = transport.call("hold", {"seconds": 0.6}, 0.3)
    assert (await failure_within(0.3, late)).kind == "transport"
    assert await transport.call("hold", {"seconds": 0.7}, OPEN_TIMEOUT_S) == "held for 0.7 s"
    assert await transport.call("answer", {"value": 7}, OPEN_TIMEOUT_S) == 7


HTML = b"<html><body><h1>Said by something in between</h1></body></html>"


def gateway(status: str) -> bytes:
    return http_answer(status, HTML, "text/html")


@pytest.mark.parametrize(
    ("name", "answer", "kind"),
    [
        ("websocket", gateway("502 Bad Gateway"), "transport"),
        ("websocket", gateway("503 Service Unavailable"), "transport"),
        ("websocket", gateway("504 Gateway Timeout"), "transport"),
        ("websocket", gateway("429 Too Many Requests"), "overload"),
        # Hypha refuses a token on the open WebSocket: this is a site that allows HTTP alone.
        ("websocket", gateway("403 Forbidden"), "transport"),
        ("websocket", gateway("401 Unauthorized"), "transport"),
        ("websocket", gateway("407 Proxy Authentication Required"), "transport"),
        ("websocket", gateway("200 OK"), "transport"),
        ("websocket", b"\x00\x01garbage\r\n\r\n", "transport"),
        ("webrtc", gateway("403 Forbidden"), "transport"),
        ("webrtc", gateway("429 Too Many Requests"), "overload"),
    ],
    ids=lambda value: value[:24].decode() if isinstance(value, bytes) else value,
    indirect=["name"],
)
async def test_a_refused_upgrade_names_the_person_to_ask(
    transport: Transport, proxy: FaultyProxy, answer: bytes, kind: str
) -> None:
    proxy.answer_with(answer)
    failure = await failure_within(AT_ONCE_S, transport.open(OPEN_TIMEOUT_S))
    assert failure.kind == kind, failure


PACKED = "application/msgpack"


@OVER_HTTP
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gateway("502 Bad Gateway"), "transport"),
        (gateway("503 Service Unavailable"), "transport"),
        (gateway("504 Gateway Timeout"), "transport"),
        (gateway("500 Internal Server Error"), "transport"),
        (gateway("429 Too Many Requests"), "overload"),
        (gateway("413 Content Too Large"), "transport"),
        (gateway("403 Forbidden"), "transport"),
        (gateway("407 Proxy Authentication Required"), "transport"),
        (gateway("302 Found"), "transport"),
        (gateway("200 OK"), "transport"),
        (http_answer("200 OK", b"\xc1" + HTML, PACKED), "transport"),
        (http_answer("200 OK", b"\x81\xa6_rtype\xa7ndarray", PACKED), "transport"),
        (http_answer("200 OK", b"\xda\xff\xffshort", PACKED), "transport"),
        (http_answer("200 OK", b"\x81\xa1a\x01", PACKED, length=1000), "transport"),
        (b"\x00\x01garbage\r\n\r\n", "transport"),
    ],
    ids=lambda value: repr(value[:12] + value[-12:]) if isinstance(value, bytes) else value,
)
async def test_an_answer_of_a_proxy_is_not_an_answer_of_the_service(
    transport: Transport, proxy: FaultyProxy, answer: bytes, kind: str
) -> None:
    await transport.open(OPEN_TIMEOUT_S)
    proxy.answer_with(answer)
    failure = await failure_within(AT_ONCE_S, transport.call(*UPLOAD, OPEN_TIMEOUT_S))
    assert failure.kind == kind, failure


async def test_a_killed_service_is_noticed(scripted: Endpoint) -> None:
    async with scripted_service(scripted.server_url, "mortal-host") as (process, endpoint):
        transports = {name: build(endpoint) for name, build in BUILD.items()}
        for transport in transports.values():
            await transport.open(OPEN_TIMEOUT_S)
        calls = {
            name: asyncio.ensure_future(transport.call(*NO_REPLY, 2 * DEADLINE_S))
            for name, transport in transports.items()
        }
        await asyncio.sleep(0.3)
        process.kill()
        failures = {name: await failure_within(2 * DEADLINE_S, calls[name]) for name in BUILD}
        assert {failure.kind for failure in failures.values()} == {"transport"}, failures
        for transport in transports.values():
            await closes_in_time(transport)
        await process.wait()
    async with scripted_service(scripted.server_url, "mortal-host"):
        for transport in transports.values():
            await assert_works(transport)
            await transport.close()


async def test_a_killed_server_is_noticed_and_a_channel_outlives_it(
    scripted: Endpoint, tmp_path: Path
) -> None:
    async with (
        running_hypha(tmp_path, ROOT_TOKEN) as (url, server),
        scripted_service(url) as (_, endpoint),
        faulty_proxy(url) as proxy,
    ):
        transports = {
            name: build(replace(endpoint, server_url=proxy.url)) for name, build in BUILD.items()
        }
        for transport in transports.values():
            await transport.open(OPEN_TIMEOUT_S)
        calls = {
            name: asyncio.ensure_future(transport.call("hold", {"seconds": 2.0}, OPEN_TIMEOUT_S))
            for name, transport in transports.items()
        }
        await asyncio.sleep(0.3)
        server.kill()
        for name in ("websocket", "http"):
            assert (await failure_within(AT_ONCE_S, calls[name])).kind == "transport"
        assert await calls["webrtc"] == "held for 2 s"
        for transport in transports.values():
            await closes_in_time(transport)
        # The server that comes back knows the same service under the same name.
        proxy.target_url = scripted.server_url
        for transport in transports.values():
            await assert_works(transport)
            await transport.close()
