"""The connection manager: measures transports, and calls over the fastest that works.

``manager`` makes the calls. ``pool`` gives each call to one replica of the service (``replica``),
which has its transports (``link``). ``prober`` measures them beside the calls, ``watchdog`` finds
those that are lost. ``ranking`` and ``throughput`` are pure: they choose a transport from what was
measured. ``shared_measurements`` keeps the measurements of one host, and ``retry`` decides what
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
