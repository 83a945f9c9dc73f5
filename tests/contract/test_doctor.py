"""The doctor against real services: a good one, broken ones, and ways that swallow what is sent."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from samcourier.diagnostics.doctor.assess import assess_facts, has_failed
from samcourier.diagnostics.doctor.facts import DiskFact, RunRequest
from samcourier.diagnostics.doctor.gather import LIMIT_S, MachineChecks, gather_facts
from samcourier.diagnostics.doctor.lines import Line
from samcourier.diagnostics.forecast import Forecast
from samcourier.settings.run_settings import (
    IceServerSettings,
    NetworkSettings,
    RunSettings,
    ServiceSettings,
)
from samcourier.transports import Endpoint
from samcourier.transports.network import IceServer, Network
from samservice.hypha.connection import connect

from .defective_services import FULL, defective_service
from .faulty_proxy import Fault, faulty_proxy
from .real_world import MARGIN_S
from .test_site_gates import turn_server

pytestmark = pytest.mark.live

FORECAST = Forecast(10, 100, 0, 50, False, 1e6, 2e6, 10, ())
HERE = MachineChecks(
    lambda: FORECAST, lambda: DiskFact("/data", True, 10**12, None), tuple, lambda: None
)


@contextmanager
def ice_settings(network: Network) -> Iterator[NetworkSettings]:
    """Give the settings of a network whose passwords are variables of the environment meanwhile."""
    variables: dict[str, str] = {}
    servers = []
    for number, server in enumerate(network.ice_servers):
        names = {}
        for key, value in (("username", server.username), ("credential", server.credential)):
            if value is not None:
                names[f"{key}_variable"] = f"TEST_ICE_{key.upper()}_{number}"
                variables[names[f"{key}_variable"]] = value
        servers.append(IceServerSettings(list(server.urls), **names))
    with mock.patch.dict(os.environ, variables):
        yield NetworkSettings(ice_servers=tuple(servers))


async def look(endpoint: Endpoint, transport: str = "auto", **asked: Any) -> dict[str, list[Line]]:
    """Return the doctor's lines by topic, which must come in time."""
    service = ServiceSettings(target="existing", server_url=endpoint.server_url, service_id="x")
    facts_asked = {"parameters": {}, "images_left": 10, "images": 10, "connections": 150} | asked
    with ice_settings(endpoint.network) as network:
        settings = RunSettings(dataset="cells", service=service, network=network)
        start_s = time.monotonic()
        facts = await gather_facts(
            RunRequest("existing", transport, **facts_asked), settings, lambda _: endpoint, HERE
        )
    assert time.monotonic() - start_s < LIMIT_S + MARGIN_S
    by_topic: dict[str, list[Line]] = {}
    for line in assess_facts(facts):
        by_topic.setdefault(line.topic, []).append(line)
    return by_topic


def status(lines: dict[str, list[Line]], topic: str) -> str:
    statuses = {line.status for line in lines.get(topic, [])}
    return "/".join(sorted(statuses))


async def test_a_good_service_gets_no_failure(live_endpoint: Endpoint) -> None:
    lines = await look(live_endpoint)
    assert not has_failed(line for each in lines.values() for line in each), lines
    for topic in ("server", "token", "service", "patched", "websocket", "webrtc", "http", "udp"):
        assert status(lines, topic) == "ok", lines[topic]
    (token,) = lines["token"]
    assert "with the right admin there, until " in token.message


async def test_parameters_that_are_refused_are_a_failure(live_endpoint: Endpoint) -> None:
    lines = await look(live_endpoint, parameters={"sigma": 1})
    assert status(lines, "service") == "failure/ok", lines["service"]


@pytest.mark.parametrize(
    ("defect", "topic", "expected"),
    [
        ("context_required", "patched", "warning"),
        # Not message_too_large: to tell it takes two silences of 5 s, most of the limit.
        ("ice_failed", "udp", "warning"),
        ("not_registered", "webrtc", "warning"),
        ("nothing_registered", "service", "failure"),
    ],
)
async def test_a_service_with_one_defect_gets_its_line(
    live_endpoint: Endpoint, defect: str, topic: str, expected: str
) -> None:
    async with defective_service(live_endpoint, defect, FULL) as endpoint:
        lines = await look(endpoint)
    assert status(lines, topic) == expected, lines
    assert all(line.advice for line in lines[topic])


async def test_a_closed_port_is_a_failure(live_endpoint: Endpoint) -> None:
    lines = await look(replace(live_endpoint, server_url="http://127.0.0.1:9"))
    assert {status(lines, topic) for topic in ("server", "service", "http")} == {"failure"}, lines


@pytest.mark.parametrize("after_bytes", [0, 300_000])
async def test_the_doctor_reports_a_silent_proxy_in_time(
    live_endpoint: Endpoint, after_bytes: int
) -> None:
    async with faulty_proxy(live_endpoint.server_url) as proxy:
        proxy.break_with(Fault("stall", "up", after_bytes))
        lines = await look(replace(live_endpoint, server_url=proxy.url))
        proxy.heal()
    assert has_failed(line for each in lines.values() for line in each)
    assert status(lines, "websocket") in ("warning", "failure"), lines
    if not after_bytes:
        assert status(lines, "server") == "failure", lines


@pytest.mark.parametrize(
    ("token", "said"), [("expired", "has expired on"), ("bad", "does not accept the token")]
)
async def test_a_token_that_is_refused_is_a_failure(
    scripted: Endpoint, token: str, said: str
) -> None:
    owner = await connect(scripted.server_url, token=scripted.token)
    tokens = {"expired": await owner.generate_token({"expires_in": 1}), "bad": "not.a.token"}
    await owner.disconnect()
    await asyncio.sleep(2.2)
    lines = await look(replace(scripted, token=tokens[token]))
    (line,) = lines["token"]
    assert (line.status, said in line.message) == ("failure", True), line
    assert tokens[token] not in str(lines)


@asynccontextmanager
async def silent_udp() -> AsyncIterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        yield int(silent.getsockname()[1])


async def test_ice_servers_that_do_not_answer_are_named(live_endpoint: Endpoint) -> None:
    async with silent_udp() as port:
        urls = (f"stun:127.0.0.1:{port}", f"turn:127.0.0.1:{port}", "turn:127.0.0.1:9")
        network = Network((IceServer(urls, "lab", "secret"),))
        # WebRTC would ask them too, until it is cut off, and aiortc leaves its sockets open then.
        lines = await look(replace(live_endpoint, network=network), "http")
    said = [line.message for line in lines["ice server"]]
    assert [each.partition(": ")[0] for each in said] == list(urls)
    assert status(lines, "ice server") == "warning", said
    assert "secret" not in str(lines)


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")
async def test_a_turn_server_is_asked_for_a_relay(live_endpoint: Endpoint, tmp_path: Path) -> None:
    password = secrets.token_hex(8)
    async with turn_server(tmp_path, password) as url:
        stun_url = url.replace("turn:", "stun:")
        right = Network((IceServer((url, stun_url), "lab", password),))
        wrong = Network((IceServer((url,), "lab", "wrong"),))
        good, bad = [
            await look(replace(live_endpoint, network=network)) for network in (right, wrong)
        ]
    assert status(good, "ice server") == "ok", good["ice server"]
    (line,) = bad["ice server"]
    assert (line.status, "401" in line.message) == ("warning", True), line
