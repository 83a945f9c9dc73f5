"""How a site lets connections out: what the config may say, and what must come from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samcourier.errors import InputError, TransportFailed
from samcourier.transports import Endpoint, HttpTransport
from samcourier.transports.network import IceServer, Network, make_network
from samservice.hypha.network import is_loopback, without_proxy_for_loopback

ENVIRONMENT = {"TURN_USER": "lab", "TURN_PASSWORD": "s3cret", "EMPTY": ""}
TURN = {
    "urls": "turn:turn.example.org:3478",
    "username_variable": "TURN_USER",
    "credential_variable": "TURN_PASSWORD",
}


def test_credentials_come_from_the_environment() -> None:
    network = make_network([TURN, {"urls": ["stun:a:1", "stun:b:2"]}], None, ENVIRONMENT)
    assert network.ice_servers == (
        IceServer(("turn:turn.example.org:3478",), "lab", "s3cret"),
        IceServer(("stun:a:1", "stun:b:2")),
    )
    assert "s3cret" not in repr(network)


def test_without_settings_and_variables_the_network_has_its_defaults() -> None:
    assert make_network([], None, {}) == Network()


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ({}, "expected a list"),
        (["turn:a"], r"ice_servers\.0: 'turn:a', expected a mapping"),
        ([{}], r"ice_servers\.0\.urls: None, expected e\.g\. turn:"),
        ([{"urls": []}], r"urls: \[\], expected"),
        ([{"urls": "http://a"}], "urls: 'http://a', expected one of stun:"),
        ([{"urls": [3]}], "urls: 3, expected one of"),
        ([TURN | {"user": "x"}], "unknown key 'user'"),
        ([TURN | {"credential": "s3cret"}], "credentials come from environment variables"),
        ([TURN | {"credential_variable": "TURN_PASWORD"}], "no variable 'TURN_PASWORD'"),
        ([TURN | {"credential_variable": "EMPTY"}], "no variable 'EMPTY'"),
        ([TURN, TURN | {"username_variable": 3}], r"ice_servers\.1\.username_variable"),
    ],
)
def test_a_slip_is_one_line(servers: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_network(servers, None, ENVIRONMENT)
    assert "s3cret" not in str(caught.value)


def test_a_missing_file_of_certificates_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ca_bundle: .*site\.pem: no such file"):
        make_network([], tmp_path / "site.pem")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("ws://localhost:1/ws", True),
        ("https://[::1]:2", True),
        ("http://127.1:8000", True),
        ("http://[::ffff:127.0.0.1]:8000", True),
        ("http://0.0.0.0:8000", True),
        ("http://[::]:8000", True),
        ("http://LOCALHOST:8000", True),
        ("http://localhost.:8000", True),
        ("http://hypha.localhost", True),
        ("https://hypha.example.org", False),
        ("http://10.0.0.1", False),
        ("http://localhost.example.org", False),
        ("http://mylocalhost", False),
        ("http://10.1", False),
        ("http://[::ffff:10.0.0.1]", False),
        ("http://127.0.0.1.example.org", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_proxy_is_not_asked_for_this_machine(url: str, expected: bool) -> None:
    assert is_loopback(url) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,::1,localhost"),
        ({"NO_PROXY": "a.example.org"}, "a.example.org,127.0.0.1,::1,localhost"),
        ({"no_proxy": "b.org, localhost"}, "b.org,localhost,127.0.0.1,::1"),
        # The lower case wins where both are set, as in urllib.
        ({"NO_PROXY": "a.org", "no_proxy": "b.org"}, "b.org,127.0.0.1,::1,localhost"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_loopback_is_added_to_no_proxy_for_child_processes(
    given: dict[str, str], expected: str
) -> None:
    environment = without_proxy_for_loopback({"PATH": "/bin", **given})
    assert environment == {"PATH": "/bin", "NO_PROXY": expected, "no_proxy": expected}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ALL_PROXY": "socks5://ann:s3cret@127.0.0.1:1"}, "http: ALL_PROXY: Using SOCKS proxy"),
        ({"all_proxy": "socks://ann:s3cret@127.0.0.1:1"}, "http: all_proxy: Unknown scheme"),
        (
            {"HTTPS_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "socks5://127.0.0.1:2"},
            "http: ALL_PROXY: Using SOCKS proxy",
        ),
        ({"HTTPS_PROXY": "http://ann:s3cret:x"}, "http: HTTPS_PROXY is not a URL"),
        ({"SSL_CERT_FILE": "DAMAGED"}, "http: SSL_CERT_FILE, SSL_CERT_DIR: .*no certificate"),
    ],
    ids=["socks5", "socks", "beside another", "not a URL", "certificates"],
)
async def test_a_proxy_without_http_support_leaves_the_other_transports(
    environment: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "site.pem"
    damaged.write_text("no certificates")
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(damaged) if value == "DAMAGED" else value)
    endpoint = Endpoint("https://hypha.example.org", "lab", "sam", "sam-rtc")
    transport = HttpTransport(endpoint)
    with pytest.raises(TransportFailed, match=words) as caught:
        await transport.open(1.0)
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)
    assert transport.state() == "closed"


async def test_a_damaged_file_of_certificates_fails_http_by_name(tmp_path: Path) -> None:
    damaged = tmp_path / "site.pem"
    damaged.write_text("no certificates")
    network = make_network([], damaged)
    endpoint = Endpoint("https://hypha.example.org", "lab", "sam", "sam-rtc", network=network)
    with pytest.raises(TransportFailed, match=r"http: network.ca_bundle .*site\.pem: .*no cert"):
        await HttpTransport(endpoint).open(1.0)
