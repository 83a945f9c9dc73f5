"""Sites that let connections out their own way: a proxy, their own certificates, a TURN server."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.errors import TransportFailed
from samcourier.transports import Endpoint, HyphaSession, Transport, WebRTCTransport
from samcourier.transports.network import IceServer, Network
from samservice.hypha.connection import connect, end_connection

from .real_world import BUILD, OPEN_TIMEOUT_S
from .site_gates import forward_proxy, tls_front

pytestmark = pytest.mark.live

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
#: A name that only the proxy knows.
HIDDEN_HOST = "hypha.site.test"


async def carries(transport: Transport) -> bool:
    """Open, carry 1 MB up and down, and close."""
    try:
        await transport.open(OPEN_TIMEOUT_S)
        answer = await transport.call(
            "probe", {"payload": bytes(1_000_000), "reply_bytes": 1_000_000}, OPEN_TIMEOUT_S
        )
        return answer["received_bytes"] == len(answer["data"]) == 1_000_000
    finally:
        await transport.close()


@pytest.fixture
def no_proxy_yet(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["websocket", "http"])
async def test_the_sites_proxy_leads_out(
    name: str, live_endpoint: Endpoint, no_proxy_yet: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    hidden = f"http://{HIDDEN_HOST}:{urlsplit(live_endpoint.server_url).port}"
    async with forward_proxy(hosts) as proxy_url:
        no_proxy_yet.setenv("HTTP_PROXY", proxy_url)
        no_proxy_yet.setenv("http_proxy", proxy_url)
        assert await carries(BUILD[name](replace(live_endpoint, server_url=hidden)))
    assert {host.split()[1] for host in hosts} == {HIDDEN_HOST}


@pytest.mark.parametrize("name", ["websocket", "http"])
async def test_no_proxy_is_asked_for_this_machine(
    name: str, live_endpoint: Endpoint, no_proxy_yet: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    async with forward_proxy(hosts) as proxy_url:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            no_proxy_yet.setenv(variable, proxy_url)
        assert await carries(BUILD[name](live_endpoint))
    assert hosts == []


@pytest.mark.parametrize("proxy_url", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
async def test_the_local_server_starts_where_the_proxies_are_dead(
    proxy_url: str, no_proxy_yet: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in PROXY_VARIABLES[:3]:
        no_proxy_yet.setenv(name, proxy_url)
        no_proxy_yet.setenv(name.lower(), proxy_url)
    token = secrets.token_urlsafe(48)
    async with running_hypha(tmp_path, token) as (url, _):
        server = await connect(url, token=token)
        assert server.config.workspace
        await end_connection(server.rpc._connection, OPEN_TIMEOUT_S)


@pytest.mark.parametrize("name", ["websocket", "webrtc", "http"])
async def test_a_certificate_of_the_sites_own_is_trusted_when_named(
    name: str, live_endpoint: Endpoint, tmp_path: Path
) -> None:
    certificate = tmp_path / "site.pem"
    async with tls_front(live_endpoint.server_url, certificate) as url:
        behind = replace(live_endpoint, server_url=url)
        trusting = replace(behind, network=Network(ca_bundle=certificate))
        assert await carries(BUILD[name](trusting))
        with pytest.raises(TransportFailed, match=r"(?i)certificate"):
            await BUILD[name](behind).open(OPEN_TIMEOUT_S)


def own_address() -> str:
    """Return an address of this machine that is not loopback, which TURN refuses as a peer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


@asynccontextmanager
async def turn_server(directory: Path, password: str) -> AsyncIterator[str]:
    """Run coturn on this machine; yield the URL to name in the config."""
    address = own_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *("turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech"),
        *(f"--user=lab:{password}", "--realm=site.test", f"--listening-port={port}"),
        *(f"--listening-ip={address}", f"--relay-ip={address}", "--log-file=stdout"),
        *(f"--pidfile={directory / 'turn.pid'}", f"--userdb={directory / 'turn.db'}"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    try:
        await asyncio.sleep(0.5)
        assert process.returncode is None, "coturn ended"
        yield f"turn:{address}:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")
async def test_webrtc_takes_the_way_over_a_turn_server(
    live_endpoint: Endpoint, tmp_path: Path
) -> None:
    password = secrets.token_hex(8)
    async with turn_server(tmp_path, password) as url:
        network = Network((IceServer((url,), "lab", password),))
        transport = WebRTCTransport(
            HyphaSession(replace(live_endpoint, network=network)), implementation="aiortc"
        )
        await transport.open(OPEN_TIMEOUT_S)
        peer = transport._peer
        assert peer is not None
        gatherer = peer._native.sctp.transport.transport.iceGatherer  # type: ignore[attr-defined]
        kinds = {candidate.type for candidate in gatherer.getLocalCandidates()}
        await transport.close()
    assert "relay" in kinds
