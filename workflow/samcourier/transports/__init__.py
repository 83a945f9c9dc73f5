"""The transports to a service, behind one interface.

The modules that use a network are imported on first use: hypha-rpc and aiortc take a second to
import, which commands without a connection need not spend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Endpoint, Transport

if TYPE_CHECKING:
    from .http import HttpTransport
    from .replicas import Replicas, build_transports, pick_replica
    from .session import HyphaSession
    from .webrtc import WebRTCTransport
    from .websocket import WebSocketTransport

__all__ = [
    "Endpoint",
    "HttpTransport",
    "HyphaSession",
    "Replicas",
    "Transport",
    "WebRTCTransport",
    "WebSocketTransport",
    "build_transports",
    "pick_replica",
]

_MODULE_OF = {
    "HttpTransport": "http",
    "HyphaSession": "session",
    "Replicas": "replicas",
    "WebRTCTransport": "webrtc",
    "WebSocketTransport": "websocket",
    "build_transports": "replicas",
    "pick_replica": "replicas",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
