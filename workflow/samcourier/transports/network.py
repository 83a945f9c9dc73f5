"""The network settings of a site: ICE servers for WebRTC, and trusted certificates for TLS.

Proxies are read from the usual variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
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
    """A STUN or TURN server, with the fields of WebRTC's ``RTCIceServer``."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the keyword arguments of aiortc's RTCIceServer."""
        return {"urls": list(self.urls), "username": self.username, "credential": self.credential}


@dataclass(frozen=True)
class Network:
    """The ICE servers, and a PEM file of trusted certificates (None: those of the system)."""

    ice_servers: tuple[IceServer, ...] = ()
    ca_bundle: Path | None = None


def make_network(
    ice_servers: Any, ca_bundle: Path | None, environment: Mapping[str, str] = os.environ
) -> Network:
    """Return the settings, with the credentials of TURN servers taken from the environment.

    Args:
        ice_servers: A list of mappings with ``urls``, and the names of two variables with the
            credentials: ``username_variable``, ``credential_variable``.
        ca_bundle: The PEM file of trusted certificates, None for those of the system.
        environment: The environment variables.

    Raises InputError for a wrong list of servers, a variable that is not set, or a missing file.
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
        hint = "; credentials come from environment variables" if "credential" in unknown else ""
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
