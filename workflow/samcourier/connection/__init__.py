"""The connection manager: it measures the transports to a service and uses the fastest that works.

``manager`` makes the calls. ``pool`` assigns them to the replicas of the service (``replica``).
Each replica has its transports (``link``), which ``prober`` measures and ``watchdog`` checks.
``ranking``, ``throughput`` and ``load_balancing`` decide, and are pure; ``retry`` decides what
follows a failure.
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
