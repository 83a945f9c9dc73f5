"""How long anything may take, and what follows a failed attempt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import CourierError, ServiceGone

Step = Literal["give_up", "next_transport", "wait", "retry"]


@dataclass(frozen=True)
class Policy:
    """Deadlines and patience.

    Every call has a deadline of its own, because hypha-rpc can hang where it should fail (the
    server's rate limit, a full buffer, a reply that is too large).
    """

    attempt_timeout_s: float = 600.0
    image_timeout_s: float = 1800.0
    open_timeout_s: float = 20.0
    #: WebRTC connects within a fraction of a second or, where UDP is closed, not for a minute.
    webrtc_open_timeout_s: float = 4.0
    #: The next transport is opened beside one that has not opened after this long.
    head_start_s: float = 1.0
    probe_timeout_s: float = 60.0
    #: How long a transport that failed rests before it is tried again; doubled each time.
    rest_after_failure_s: float = 1.0
    rest_max_s: float = 120.0
    #: A transport in use is asked for a sign of life after this long without one...
    heartbeat_s: float = 0.5
    #: ...or after this share of the time that it has carried nothing else, if that is longer: the
    #: service's answers to all jobs come over one connection, which Hypha closes at 200 a second...
    heartbeat_share: float = 0.1
    #: ...but not rarer than that.
    heartbeat_max_s: float = 10.0
    #: Silent for so long while the service is heard over another transport, it is lost...
    silence_s: float = 1.2
    #: ...or for so many times the seconds predicted for what it carries, if that is longer...
    silence_factor: float = 3.0
    #: ...or for so long, as long as nothing can be predicted.
    silence_unmeasured_s: float = 10.0
    #: With nobody else to ask, only this long a silence is a loss: a service may think.
    silence_alone_s: float = 120.0
    overload_wait_s: float = 0.5
    overload_wait_max_s: float = 20.0
    service_retries: int = 1
    #: So often a call that was lost over every transport, though the service was heard, is sent
    #: again; with pauses of 1 s, doubled each time, for half a minute.
    loss_retries: int = 5
    #: How long a service that no transport reaches is waited for before the run stops, also at its
    #: start: a server that restarts is back by then.
    absence_limit_s: float = 30.0
    absence_pause_s: float = 1.0
    #: Where a service may be away for an hour, one that is back is noticed within this.
    absence_pause_max_s: float = 16.0

    def open_timeout_for(self, transport: str) -> float:
        """Return the seconds a transport may take to open."""
        return self.webrtc_open_timeout_s if transport == "webrtc" else self.open_timeout_s

    def rest_s(self, failures: int) -> float:
        """Return the seconds of rest after ``failures`` failures before this one."""
        return float(min(self.rest_after_failure_s * 2.0 ** min(failures, 30), self.rest_max_s))

    def pause_s(self, pauses: int) -> float:
        """Return the pause before another round over all transports, after ``pauses`` before it."""
        return float(min(self.absence_pause_s * 2.0 ** min(pauses, 30), self.absence_pause_max_s))

    def overload_ceiling_s(self, waits: int) -> float:
        """Return the longest pause after ``waits`` pauses before it: doubling, bounded."""
        return float(min(self.overload_wait_s * 2.0 ** min(waits, 30), self.overload_wait_max_s))


def what_next(error: CourierError, service_failures: int, policy: Policy) -> Step:
    """Decide what follows a failed attempt: the one place that knows what may be retried.

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


def may_pass(error: CourierError) -> bool:
    """Tell whether what failed may work later although nobody mends anything."""
    return error.kind not in ("denied", "request", "input", "storage")


class Patience:
    """Pauses between rounds over all transports, until the service counts as gone.

    An attempt in which the far side was heard starts it anew, but a call that is lost in round
    after round although it was heard is at fault itself.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._gone_since_s: float | None = None
        self._pauses = 0
        self._losses = 0
        self._loss: CourierError | None = None

    def note(self, error: CourierError, *, was_heard: bool) -> None:
        """Note a failed attempt; that a server says that the service is gone is no sign of life."""
        if was_heard and not isinstance(error, ServiceGone):
            self._loss = error

    async def pause(self) -> bool:
        """Wait before another round; False when the patience is over."""
        if self._loss is not None:
            self._gone_since_s = None
            self._pauses = self._losses
            self._losses += 1
        if self._gone_since_s is None:
            self._gone_since_s = self._clock()
        gone_s = self._clock() - self._gone_since_s
        if self._losses > self._policy.loss_retries or gone_s >= self._policy.absence_limit_s:
            return False
        self._loss = None
        # Not all jobs at the same moment: each has its images to send again.
        await asyncio.sleep(random.uniform(0.75, 1.25) * self._policy.pause_s(self._pauses))
        self._pauses += 1
        return True

    def ending(self, gone: ServiceGone) -> CourierError:
        """Return what decided: ``gone``, unless the service was heard in the last round."""
        return self._loss or gone
