"""The ways to reach a service, behind one seam."""

from __future__ import annotations

from .base import Endpoint, Transport
from .http import HttpTransport
from .session import HyphaSession
from .webrtc import WebRTCTransport
from .websocket import WebSocketTransport

TRANSPORT_CHOICES = ("auto", "websocket", "webrtc", "http")


def build_transports(endpoint: Endpoint, wanted: str = "auto") -> list[Transport]:
    """Return the wanted transports in order of preference; ``auto`` means all of them."""
    session = HyphaSession(endpoint)
    built: list[Transport] = [
        WebSocketTransport(session),
        WebRTCTransport(session, owns_session=wanted == "webrtc"),
        HttpTransport(endpoint),
    ]
    return [transport for transport in built if wanted in ("auto", transport.name)]
