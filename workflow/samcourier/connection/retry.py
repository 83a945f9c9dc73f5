"""Decide what follows a failed attempt; the time limits are those of :mod:`.time_limits`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Literal

from ..errors import CourierError, ServiceGone
from .time_limits import Policy

Step = Literal["give_up", "next_transport", "wait", "retry"]


def what_next(error: CourierError, service_failures: int, policy: Policy) -> Step:
    """Decide what follows a failed attempt; only this function decides what may be retried.

    ``service_failures`` counts the service's failures for this call, this one included.
    """
    match error.kind:
        case "transport":
            return "next_transport"
        case "overload":
            return "wait"
        case "service" if isinstance(error, ServiceGone):
            return "next_transport"
        case "service" if service_failures <= policy.service_retries:
            return "retry"
        case _:
            return "give_up"


def is_temporary(error: CourierError) -> bool:
    """Tell whether a failure is temporary, so that the same call may work later unchanged."""
    return error.kind not in ("denied", "request", "input", "storage")


class OutageWait:
    """The pauses between rounds over all transports, until the service counts as unavailable.

    An attempt in which the far side was heard restarts the outage. The number of such restarts is
    limited: a call that is lost in every round although the service is heard is itself the cause.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._outage_since_s: float | None = None
        self._pauses = 0
        self._losses = 0
        self._loss: CourierError | None = None

    def note(self, error: CourierError, *, was_heard: bool) -> None:
        """Note a failed attempt and whether the far side was heard during it.

        A server's report that the service is not available does not count as heard.
        """
        if was_heard and not isinstance(error, ServiceGone):
            self._loss = error

    async def pause(self) -> bool:
        """Wait before another round; return False when the limit is reached."""
        if self._loss is not None:
            self._outage_since_s = None
            self._pauses = self._losses
            self._losses += 1
        if self._outage_since_s is None:
            self._outage_since_s = self._clock()
        outage_s = self._clock() - self._outage_since_s
        if self._losses > self._policy.loss_retries or outage_s >= self._policy.outage_limit_s:
            return False
        self._loss = None
        # Random, so that not all jobs send their images again at the same moment.
        await asyncio.sleep(random.uniform(0.75, 1.25) * self._policy.pause_s(self._pauses))
        self._pauses += 1
        return True

    def ending(self, unreachable: ServiceGone) -> CourierError:
        """Return the decisive failure: ``unreachable``, unless the service was heard last round."""
        return self._loss or unreachable
