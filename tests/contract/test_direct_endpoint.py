"""A replica's own endpoint: never before its rules are known, and never the replica's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from samcourier.errors import CourierError, Denied
from samcourier.transports import Endpoint, HyphaSession, WebSocketTransport
from samservice.contract.errors import NotAuthorized
from samservice.engines.watershed import WatershedEngine
from samservice.hypha.connection import end_connection
from samservice.server.access import AccessRules
from samservice.server.app import SegmentationService
from samservice.server.direct import DirectEndpoint
from samservice.server.serve import ServeSettings

pytestmark = pytest.mark.live

WAIT_S = 20.0
EVERYONE = {"*": ["*"]}

ReadRules = Callable[[], Awaitable[Mapping[str, list[str]]]]
Make = Callable[..., DirectEndpoint]


@pytest.fixture
async def make(live_endpoint: Endpoint) -> AsyncIterator[Make]:
    """Return a function that makes an endpoint of given settings and rules."""
    service = SegmentationService(WatershedEngine(), access=AccessRules({}))
    made: list[DirectEndpoint] = []

    def direct(read: ReadRules, **changed: Any) -> DirectEndpoint:
        settings = ServeSettings(
            live_endpoint.server_url,
            live_endpoint.token,
            live_endpoint.workspace,
            service_id="direct",
            visibility="public",
        )
        made.append(
            DirectEndpoint(service, replace(settings, **changed), read_users_by_method=read)
        )
        return made[-1]

    yield direct
    for each in made:
        await each.close()
    service.close()


async def everyone() -> dict[str, list[str]]:
    return EVERYONE


async def unreadable() -> dict[str, list[str]]:
    raise LookupError("the proxy is not there yet")


async def probe(endpoint: Endpoint, service_id: str) -> Any:
    transport = WebSocketTransport(HyphaSession(replace(endpoint, service_id=service_id)))
    try:
        await transport.open(WAIT_S)
        return await transport.call("probe", {"payload": b"12"}, WAIT_S)
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("read", "changed", "reason"),
    [
        (unreadable, {}, "the proxy is not there yet"),
        (everyone, {"token": None}, "HYPHA_TOKEN"),
        (everyone, {"token": "no.such.token"}, "cannot serve through"),
        (everyone, {"server_url": "http://127.0.0.1:9"}, "cannot serve through"),
    ],
    ids=["no rules", "no token", "wrong token", "no server"],
)
async def test_a_connection_problem_is_reported_and_not_raised(
    make: Make, read: ReadRules, changed: dict[str, Any], reason: str
) -> None:
    direct = make(read, **changed)
    await direct.maintain(WAIT_S)
    told = direct.address()["unavailable"]
    assert reason in told
    assert str(changed.get("token")) not in told


async def test_it_comes_up_once_the_rules_are_known_and_follows_them(
    make: Make, live_endpoint: Endpoint
) -> None:
    answers: list[dict[str, list[str]] | Exception] = [
        LookupError("not yet"),
        EVERYONE,
        {"*": ["ann"]},
        LookupError("gone again"),
    ]

    async def read() -> dict[str, list[str]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    direct = make(read)
    await direct.maintain()
    await direct.maintain(WAIT_S)
    service_id = direct.address()["service_id"]
    assert (await probe(live_endpoint, service_id))["received_bytes"] == 2
    # The second time the rules cannot be read, and the last ones known hold.
    for _ in range(2):
        await direct.maintain()
        with pytest.raises(Denied):
            await probe(live_endpoint, service_id)


async def test_without_rules_no_caller_is_allowed(make: Make) -> None:
    with pytest.raises(NotAuthorized, match="not there yet"):
        await make(unreadable).require_rules()


async def test_a_lost_connection_is_opened_again(make: Make, live_endpoint: Endpoint) -> None:
    direct = make(everyone)
    await direct.maintain(WAIT_S)
    old = direct.address()["service_id"]
    # As hypha-rpc ends when it gives up on the server.
    await end_connection(direct._server.rpc._connection, wait_s=0)
    for _ in range(5):
        await direct.maintain(WAIT_S)
    new = direct.address()["service_id"]
    assert new != old
    assert (await probe(live_endpoint, new))["received_bytes"] == 2


async def test_closed_it_stays_closed(make: Make, live_endpoint: Endpoint) -> None:
    direct = make(everyone)
    await direct.maintain(WAIT_S)
    service_id = direct.address()["service_id"]
    await direct.close()
    await direct.maintain(0.1)
    assert "unavailable" in direct.address()
    with pytest.raises(CourierError):
        await asyncio.wait_for(probe(live_endpoint, service_id), WAIT_S)
