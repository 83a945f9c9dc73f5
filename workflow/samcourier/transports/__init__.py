"""The ways to reach a service, behind one seam."""

from __future__ import annotations

from .base import Endpoint, Transport
from .copies import Copies, build_transports
from .http import HttpTransport
from .session import HyphaSession
from .webrtc import WebRTCTransport
from .websocket import WebSocketTransport

TRANSPORT_CHOICES = ("auto", "websocket", "webrtc", "http")

__all__ = [
    "TRANSPORT_CHOICES",
    "Copies",
    "Endpoint",
    "HttpTransport",
    "HyphaSession",
    "Transport",
    "WebRTCTransport",
    "WebSocketTransport",
    "build_transports",
]
