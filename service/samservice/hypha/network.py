"""Network settings for a server: proxies and TLS certificates."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Return True if the URL's host is this machine, which no proxy can reach."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext | None:
    """Return TLS settings that trust the certificates in ``ca_bundle``, None for the default."""
    return None if ca_bundle is None else ssl.create_default_context(cafile=ca_bundle)
