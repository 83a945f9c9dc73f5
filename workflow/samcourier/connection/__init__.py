"""The connection manager: measures the ways to a service, and calls over the fastest that works.

``manager`` makes the calls. ``pool`` hands them to the replicas of the service (``replica``), each
with its transports (``link``), which ``scout`` measures and ``watch`` listens to. ``choose``,
``estimate`` and ``share`` decide, and are pure; ``retry`` says what follows a failure.
"""

from __future__ import annotations

from .call import Answer, Call, CallFailed
from .manager import ConnectionManager, OnlyReplica, connected
from .throughput import Payload

__all__ = [
    "Answer",
    "Call",
    "CallFailed",
    "ConnectionManager",
    "OnlyReplica",
    "Payload",
    "connected",
]
