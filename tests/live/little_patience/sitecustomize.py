"""Every Python process that finds this on its path waits two seconds for a service that is gone.

The product waits half a minute, since a server may restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from samcourier.connection.retry import OutageWait
from samcourier.connection.time_limits import Policy

PATIENCE_S = 2.0

_begin = OutageWait.__init__


def _begin_with_little(self: OutageWait, policy: Policy, clock: Callable[[], float]) -> None:
    _begin(self, replace(policy, outage_limit_s=PATIENCE_S), clock)


OutageWait.__init__ = _begin_with_little
