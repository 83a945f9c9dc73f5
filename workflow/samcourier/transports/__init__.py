"""The ways to reach a service, behind one seam."""

from __future__ import annotations

from .base import Endpoint, Transport
from .http import HttpTransport
from .replicas import Replicas, build_transports
from .session import HyphaSession
from .webrtc import WebRTCTransport
from .websocket import WebSocketTransport

TRANSPORT_CHOICES = ("auto", "websocket", "webrtc", "http")

__all__ = [
    "TRANSPORT_CHOICES",
    "Endpoint",
    "HttpTransport",
    "HyphaSession",
    "Replicas",
    "Transport",
    "WebRTCTransport",
    "WebSocketTransport",
    "build_transports",
]
