"""Network settings for a server: proxies and TLS certificates."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")


def is_loopback(url: str) -> bool:
    """Return True if the URL's host is this machine, which no proxy can reach.

    This holds for the loopback addresses of IPv4 and IPv6, for the unspecified addresses (0.0.0.0,
    ::), which systems take for this machine, and for ``localhost`` with the names below it
    (RFC 6761). False for a text that is no URL.
    """
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(_full_ipv4(host))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def without_proxy_for_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with this machine in NO_PROXY, for clients that only read that."""
    # Where both are set, urllib and with it httpx, requests and websockets take the lower case.
    hosts = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    if "*" not in names:
        names += [name for name in _LOOPBACK_NAMES if name not in names]
    joined = ",".join(names)
    return {**environment, "NO_PROXY": joined, "no_proxy": joined}


def _full_ipv4(host: str) -> str:
    """Return an IPv4 address in its short form (127.1) with four numbers, another host as it is."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", host):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext | None:
    """Return TLS settings that trust the certificates in ``ca_bundle``, None for the default."""
    return None if ca_bundle is None else ssl.create_default_context(cafile=ca_bundle)
