"""How a site lets connections out: ICE servers for WebRTC, and whom to trust for TLS.

Proxies come from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as everywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError

_SCHEMES = ("stun:", "stuns:", "turn:", "turns:")
_KEYS = ("urls", "username_variable", "credential_variable")


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server, as ``RTCIceServer`` of WebRTC has it."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the keyword arguments of aiortc's RTCIceServer."""
        return {"urls": list(self.urls), "username": self.username, "credential": self.credential}


@dataclass(frozen=True)
class Network:
    """``ca_bundle`` is a PEM file of certificates to trust; None for those of the system."""

    ice_servers: tuple[IceServer, ...] = ()
    ca_bundle: Path | None = None


def make_network(
    ice_servers: Any, ca_bundle: Path | None, environment: Mapping[str, str] = os.environ
) -> Network:
    """Return the settings, with the credentials of TURN servers taken from the environment.

    Raises InputError for what is no list of servers, a variable that is not set, or a missing
    file.
    """
    if not isinstance(ice_servers, list):
        raise InputError(f"network.ice_servers: {ice_servers!r}, expected a list of servers")
    if ca_bundle is not None and not ca_bundle.is_file():
        raise InputError(f"network.ca_bundle: {ca_bundle}: no such file, expected certificates")
    servers = tuple(
        _ice_server(server, f"network.ice_servers.{number}", environment)
        for number, server in enumerate(ice_servers)
    )
    return Network(servers, ca_bundle)


def _ice_server(server: Any, where: str, environment: Mapping[str, str]) -> IceServer:
    if not isinstance(server, dict):
        raise InputError(f"{where}: {server!r}, expected a mapping with {', '.join(_KEYS)}")
    unknown = sorted(server.keys() - set(_KEYS))
    if unknown:
        hint = "; credentials come from variables" if "credential" in unknown else ""
        raise InputError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(_KEYS)}{hint}")
    urls = server.get("urls")
    urls = [urls] if isinstance(urls, str) else urls
    if not isinstance(urls, list) or not urls:
        raise InputError(f"{where}.urls: {urls!r}, expected e.g. turn:turn.example.org:3478")
    for url in urls:
        if not isinstance(url, str) or not url.startswith(_SCHEMES):
            raise InputError(f"{where}.urls: {url!r}, expected one of {', '.join(_SCHEMES)}")
    username, credential = (
        _from_environment(server.get(key), f"{where}.{key}", environment) for key in _KEYS[1:]
    )
    return IceServer(tuple(urls), username, credential)


def _from_environment(name: Any, where: str, environment: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not environment.get(name):
        raise InputError(f"{where}: the environment has no variable {name!r}")
    return environment[name]
