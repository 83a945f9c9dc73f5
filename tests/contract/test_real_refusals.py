"""What becomes of a call that the server or the service really refuses, breaks or never answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.errors import Overloaded, ServiceGone, TransportFailed
from samcourier.transports import Endpoint, Transport
from samservice.hypha.connection import connect

from .real_world import (
    AT_ONCE_S,
    BUILD,
    DEADLINE_S,
    OPEN_TIMEOUT_S,
    ROOT_TOKEN,
    assert_works,
    failure_within,
    scripted_service,
)

pytestmark = pytest.mark.live

#: More messages than the server takes at once of one connection, and calls of one HTTP caller.
FLOOD_CALLS = 260


@asynccontextmanager
async def opened(name: str, endpoint: Endpoint) -> AsyncIterator[Transport]:
    transport = BUILD[name](endpoint)
    try:
        await transport.open(OPEN_TIMEOUT_S)
        yield transport
    finally:
        await transport.close()


def beside(scripted: Endpoint, service: str) -> Endpoint:
    """Where the same service is, on another connection of the scripted process."""
    host = scripted.service_id.partition(":")[0]
    return replace(scripted, service_id=f"{host}-{service}:{service}")


@pytest.fixture(params=BUILD)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tokens(scripted: Endpoint) -> dict[str, str]:
    """Real tokens, made by the server for this workspace and for that of somebody else."""
    owner = await connect(scripted.server_url, token=scripted.token)
    stranger = await connect(scripted.server_url)
    tokens = {
        "good": await owner.generate_token({"expires_in": 3600}),
        "expired": await owner.generate_token({"expires_in": 1}),
        "stranger": await stranger.generate_token({"expires_in": 3600}),
    }
    await stranger.disconnect()
    await owner.disconnect()
    await asyncio.sleep(2.2)
    return tokens


@pytest.mark.parametrize("token", ["expired", "stranger"])
@pytest.mark.parametrize("names_workspace", [True, False])
async def test_a_caller_without_rights_is_denied(
    scripted: Endpoint, tokens: dict[str, str], name: str, token: str, names_workspace: bool
) -> None:
    workspace = scripted.workspace if names_workspace else None
    await is_denied(name, replace(scripted, token=tokens[token], workspace=workspace))


# Over HTTP nothing is asked of the caller's own workspace: the service's id names one.
@pytest.mark.parametrize("name", ["websocket", "webrtc"], indirect=True)
async def test_a_token_of_another_workspace_is_denied(
    scripted: Endpoint, tokens: dict[str, str], name: str
) -> None:
    await is_denied(name, replace(scripted, token=tokens["good"], workspace="somebody-elses"))


async def is_denied(name: str, endpoint: Endpoint) -> None:
    transport = BUILD[name](endpoint)
    try:
        failure = await failure_within(AT_ONCE_S, transport.open(OPEN_TIMEOUT_S))
    finally:
        await transport.close()
    assert failure.kind == "denied", (failure.kind, failure)


async def answers_again(transport: Transport) -> None:
    """Wait until a call over the same transport is answered.

    On a busy machine the held calls last so long that the service, too, passes its limit once and
    is away until it has connected again.
    """
    async with asyncio.timeout(OPEN_TIMEOUT_S):
        while True:
            with contextlib.suppress(Overloaded, TransportFailed, ServiceGone):
                assert await transport.call("answer", {"value": 7}, OPEN_TIMEOUT_S) == 7
                return
            await asyncio.sleep(0.2)


async def test_the_http_limit_of_the_server_is_overload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At a rate that a busy machine exceeds as well.
    monkeypatch.setenv("HYPHA_HTTP_AUTHENTICATED_RATE_LIMIT", "1")
    monkeypatch.setenv("HYPHA_HTTP_AUTHENTICATED_BURST_LIMIT", str(FLOOD_CALLS - 60))
    async with (
        running_hypha(tmp_path, ROOT_TOKEN) as (url, _),
        scripted_service(url) as (_, endpoint),
        opened("http", endpoint) as transport,
    ):
        flood = (transport.call("describe", {}, OPEN_TIMEOUT_S) for _ in range(FLOOD_CALLS))
        ends = await asyncio.gather(*flood, return_exceptions=True)
        failures = [end for end in ends if isinstance(end, BaseException)]
        kinds = {(getattr(end, "kind", ""), getattr(end, "name", repr(end))) for end in failures}
        # On a busy machine the server also fails single calls of the flood with HTTP 500.
        assert ("overload", "HTTP429") in kinds
        await answers_again(transport)


async def test_the_message_limit_of_the_server_is_overload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At a rate that a busy machine exceeds as well.
    monkeypatch.setenv("HYPHA_WS_MSG_RATE_LIMIT", "1")
    monkeypatch.setenv("HYPHA_WS_MSG_BURST_LIMIT", str(FLOOD_CALLS - 60))
    async with (
        running_hypha(tmp_path, ROOT_TOKEN) as (url, _),
        scripted_service(url) as (_, endpoint),
        opened("websocket", endpoint) as transport,
    ):
        held = ("hold", {"seconds": 3600}, OPEN_TIMEOUT_S)
        flood = [asyncio.ensure_future(transport.call(*held)) for _ in range(FLOOD_CALLS)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_EXCEPTION)
        # hypha-rpc connects again by itself, so the same transport stays good.
        await answers_again(transport)
        # Those that were not sent yet are sent on the next connection, and nobody answers them.
        unsent = [call for call in flood if not call.done()]
        for call in unsent:
            call.cancel()
        ends = await asyncio.gather(*flood, return_exceptions=True)
    kinds = Counter(getattr(end, "kind", type(end).__name__) for end in ends)
    assert kinds["overload"] > 0.6 * FLOOD_CALLS, kinds
    assert kinds["overload"] + len(unsent) == FLOOD_CALLS, kinds


@pytest.mark.parametrize(
    ("service", "chunk_bytes", "up_bytes", "down_bytes", "within_s"),
    [
        # BufferFull on the service's side: a default peer takes 524 288 bytes in one message.
        ("stock", 700_000, 650_000, 0, DEADLINE_S),
        # BufferFull on this side, which takes two chunks of its own.
        ("over-the-buffer", 500_000, 0, 1_020_000, DEADLINE_S),
        # This side closes with 1009.
        ("never-chunked", 500_000, 0, 3_000_000, AT_ONCE_S),
        # The server closes the service's connection with 1009.
        ("never-chunked", 500_000, 0, 17_000_000, DEADLINE_S),
    ],
    ids=["full-there", "full-here", "1009-here", "1009-there"],
)
async def test_a_message_too_large_is_lost_on_the_way(
    scripted: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    chunk_bytes: int,
    up_bytes: int,
    down_bytes: int,
    within_s: float,
) -> None:
    monkeypatch.setattr("samservice.hypha.connection.WEBSOCKET_CHUNK_BYTES", chunk_bytes)
    async with opened("websocket", beside(scripted, service)) as transport:
        call = transport.call(
            "probe",
            {"payload": bytes(up_bytes), "reply_bytes": down_bytes},
            within_s or OPEN_TIMEOUT_S,
        )
        failure = await failure_within(within_s, call)
    assert failure.kind == "transport", failure


async def test_a_chunk_above_the_channels_limit_is_lost_on_the_way(
    scripted: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcourier.transports.webrtc.chunk_bytes", lambda sdp: 300_000)
    async with opened("webrtc", scripted) as transport:
        call = transport.call("probe", {"payload": bytes(1_000_000)}, OPEN_TIMEOUT_S)
        failure = await failure_within(AT_ONCE_S, call)
    assert failure.kind == "transport", failure


@pytest.mark.parametrize(
    "said",
    ["out of memory", "connection to the GPU timed out", "PermissionError: [Errno 13] weights.pt"],
)
async def test_a_service_that_raises_has_failed_itself(
    scripted: Endpoint, name: str, said: str
) -> None:
    async with opened(name, scripted) as transport:
        call = transport.call("fail", {"said": said}, OPEN_TIMEOUT_S)
        failure = await failure_within(AT_ONCE_S, call)
        assert failure.kind == "service", failure
        assert said in str(failure)
        assert await transport.call("answer", {"value": 7}, OPEN_TIMEOUT_S) == 7


async def test_a_reply_that_cannot_be_sent_is_the_services_failure(
    scripted: Endpoint, name: str
) -> None:
    async with opened(name, scripted) as transport:
        failure = await failure_within(DEADLINE_S, transport.call("unsendable", {}, DEADLINE_S))
        assert failure.kind == "service", failure


@pytest.mark.parametrize("value", [None, "text", 3.5, [1, {"a": b"\x00"}], np.arange(3.0)])
async def test_a_reply_of_any_type_arrives_as_it_is(
    scripted: Endpoint, name: str, value: Any
) -> None:
    async with opened(name, scripted) as transport:
        answer = await transport.call("answer", {"value": value}, OPEN_TIMEOUT_S)
        assert type(answer) is type(value)
        np.testing.assert_equal(answer, value)


async def test_a_missing_method_is_named(scripted: Endpoint, name: str) -> None:
    async with opened(name, scripted) as transport:
        failure = await failure_within(AT_ONCE_S, transport.call("nothing", {}, OPEN_TIMEOUT_S))
    assert (failure.kind, failure.name) == ("request", "NoSuchMethod")


@pytest.mark.parametrize(
    ("rtc_service", "failure_name", "within_s"),
    [
        # As behind a firewall: the offer is answered, and what is sent to the peer is not.
        ("no-route-rtc", "TransportFailed", DEADLINE_S),
        ("too-late-rtc", "TransportFailed", DEADLINE_S),
        ("refused-rtc", "TransportFailed", AT_ONCE_S),
        ("nonsense-rtc", "TransportFailed", AT_ONCE_S),
        ("scripted", "TransportFailed", AT_ONCE_S),
        ("nothing-rtc", "ServiceGone", AT_ONCE_S),
    ],
)
async def test_an_offer_that_leads_to_no_channel(
    scripted: Endpoint, rtc_service: str, failure_name: str, within_s: float
) -> None:
    host = scripted.rtc_service_id.partition(":")[0]
    transport = BUILD["webrtc"](replace(scripted, rtc_service_id=f"{host}:{rtc_service}"))
    failure = await failure_within(within_s, transport.open(within_s or OPEN_TIMEOUT_S))
    await transport.close()
    assert type(failure).__name__ == failure_name, failure


async def test_a_channel_closed_by_the_service_is_lost_at_once(scripted: Endpoint) -> None:
    async with opened("websocket", scripted) as beside, opened("webrtc", scripted) as transport:
        calling = asyncio.ensure_future(transport.call("hold", {"seconds": 60}, OPEN_TIMEOUT_S))
        await asyncio.sleep(0.1)
        await beside.call("drop_channels", {}, OPEN_TIMEOUT_S)
        assert (await failure_within(AT_ONCE_S, calling)).kind == "transport"
        again = transport.call("answer", {"value": 7}, OPEN_TIMEOUT_S)
        assert (await failure_within(AT_ONCE_S, again)).kind == "transport"
        await transport.close()
        await assert_works(transport)
