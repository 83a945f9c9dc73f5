"""The connection manager: it chooses the transport of each call and handles failures.

It starts with the preferred transport at once, opens the others in the background, measures each
with a payload of the size really sent, and calls over the one that is predicted fastest.
When a transport fails, the same image goes over the next one at once; the failed one is probed
again later.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from ..errors import CourierError, ServiceGone
from ..results.connection_log import ConnectionJournal
from ..results.image_log import Attempt
from ..results.service_description import ServiceDescription
from ..transports.base import Transport
from .call import Answer, Call, CallFailed
from .description import RunIdentity
from .link import Link
from .pool import FindReplicas, ReplicaPool
from .replica import Replica
from .retry import OutageWait, what_next
from .shared_measurements import Measurements
from .throughput import Estimate
from .time_limits import Policy

T = TypeVar("T")


class ConnectionManager:
    """Calls over the fastest working transport of the replica predicted to answer first.

    Args:
        finder: Finds the replicas of the service.
        journal: Gets the events of all connections.
        policy: All time limits; the defaults if None.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        finder: FindReplicas,
        journal: ConnectionJournal,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._policy = policy or Policy()
        self._clock = clock
        #: How many calls are still expected: the cost of measuring must pay off over these.
        self.calls_left = 0
        self._last_progress_s = -math.inf
        self._overload_lock = asyncio.Lock()
        self._pool = ReplicaPool(finder, self._replica, journal)

    def _replica(
        self, name: str | None, transports: Sequence[Transport], identity: RunIdentity
    ) -> Replica:
        return Replica(
            name,
            transports,
            self._journal,
            self._policy,
            self._clock,
            lambda: self.calls_left,
            identity,
        )

    @property
    def _first(self) -> Replica | None:
        return self._pool.replicas[0] if self._pool.replicas else None

    @property
    def current(self) -> str | None:
        """The name of the transport in use, of the first replica if there are several."""
        return self._first.current if self._first else None

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates of each measured transport of the first replica, by name."""
        return self._first.estimates if self._first else {}

    @property
    def up_bytes_per_s(self) -> float | None:
        """The upload rate of the transport in use, in bytes per second; None until measured."""
        return self._first.up_bytes_per_s if self._first else None

    @property
    def capacity(self) -> int:
        """How many calls the service accepts at once from this client."""
        return self._pool.capacity

    async def start(
        self, expected_calls: int, known: Measurements | None = None
    ) -> ServiceDescription:
        """Open the service and return its description, empty when it has no ``describe``.

        Args:
            expected_calls: How many calls will follow.
            known: The measurements of other jobs.

        The manager waits for the end of an outage as during a call. It raises permanent failures
        at once (Denied, RequestRefused, InputError), and ServiceGone, Overloaded or
        TransportFailed when no transport works.
        """
        self.calls_left = expected_calls
        return await self._pool.start(known, OutageWait(self._policy, self._clock))

    def expect(self, more_calls: int) -> None:
        """Add ``more_calls``, which may be negative, to the number of expected calls."""
        self.calls_left += more_calls

    async def close(self) -> None:
        """End the background work and close every transport."""
        await self._pool.close()

    async def call(self, call: Call[T]) -> Answer[T]:
        """Call the service, with retries, and return the answer with all attempts.

        Raises CallFailed, whose ``cause`` is the decisive failure.
        """
        attempts: list[Attempt] = []
        tried: set[Link] = set()
        service_failures = wait_count = 0
        outage_wait = OutageWait(self._policy, self._clock)
        start_s = self._clock()
        if self._first is not None:
            await self._first.hold(call.payload)
        try:
            while True:
                async with self._pool.reserve_replica(call.payload, tried, call.replica) as replica:
                    choice = replica.choose(call.payload, tried) if replica else None
                    if replica is not None and choice is not None:
                        attempt_start_s = self._clock()
                        outcome = await replica.attempt(choice, call, self._deadline_s(start_s))
                if replica is None or choice is None:
                    if not await outage_wait.pause():
                        raise CallFailed(outage_wait.ending(self._unreachable_error()), attempts)
                    tried.clear()
                    await self._pool.refresh()
                    continue
                attempt, value, error = outcome
                attempts.append(attempt)
                if error is None:
                    assert value is not None
                    return Answer(value, tuple(attempts))
                outage_wait.note(error, was_heard=replica.was_heard(choice.name, attempt_start_s))
                service_failures += error.kind == "service" and not isinstance(error, ServiceGone)
                step = what_next(error, service_failures, self._policy)
                if step == "next_transport":
                    tried.update(self._links_to_skip(replica, choice.name, error))
                elif step == "wait":
                    wait_count = await self._wait_for_queue_space(
                        replica, choice.name, wait_count, start_s
                    )
                if step == "give_up" or self._clock() >= self._deadline_s(start_s):
                    raise CallFailed(error, attempts)
        finally:
            self.calls_left -= 1

    def _links_to_skip(self, replica: Replica, transport: str, error: CourierError) -> list[Link]:
        """Return the links not to try again with this image after ``error``."""
        has_others = len(self._pool.replicas) > 1
        if isinstance(error, ServiceGone) and has_others:
            return replica.links
        return [link for link in replica.links if link.name == transport]

    def _deadline_s(self, start_s: float) -> float:
        """Return the deadline of an image; progress of the service with other images extends it."""
        self._last_progress_s = max(
            [self._last_progress_s, *(each.last_progress_s for each in self._pool.replicas)]
        )
        return max(start_s, self._last_progress_s) + self._policy.image_timeout_s

    async def _wait_for_queue_space(
        self, replica: Replica, transport: str, wait_count: int, start_s: float
    ) -> int:
        """Sleep until the service's queue has space or the image's deadline; return the wait count.

        The pauses grow, and are random so that jobs spread out. Images sent to a full queue again
        and again would fill the network, so an empty probe asks for space, for one image at a time.
        """
        has_waited = self._overload_lock.locked()
        async with self._overload_lock:
            # If the previous image found space, there may be more.
            if has_waited and await replica.has_queue_space(transport):
                return wait_count
            while (left_s := self._deadline_s(start_s) - self._clock()) > 0:
                pause_s = random.uniform(0.5, 1) * self._policy.overload_ceiling_s(wait_count)
                # Often enough to notice the progress of the service.
                pause_s = min(pause_s, left_s, self._policy.image_timeout_s / 4)
                self._journal.record("overloaded", wait_s=pause_s)
                await asyncio.sleep(pause_s)
                wait_count += 1
                # Another replica, if there are several, may have space.
                if len(self._pool.replicas) > 1 or await replica.has_queue_space(transport):
                    break
        return wait_count

    def _unreachable_error(self) -> ServiceGone:
        return (
            self._first.unreachable_error()
            if self._first
            else ServiceGone("no replica of the service is available")
        )


class OnlyReplica:
    """A service with one replica; its ``transports`` are in order of preference."""

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = transports

    async def find(self) -> dict[str | None, Sequence[Transport]]:
        """Return the transports of the one replica, which has no name."""
        return {None: self._transports}

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


@asynccontextmanager
async def connected(
    transports: Sequence[Transport] | FindReplicas,
    journal: ConnectionJournal,
    expected_calls: int,
    policy: Policy | None = None,
    known: Measurements | None = None,
) -> AsyncIterator[tuple[ConnectionManager, ServiceDescription]]:
    """Yield a started manager and the service's description; close everything at the end.

    Args:
        transports: The transports of a service with one replica, in order of preference, or a
            finder of the replicas of a service that may have several.
        journal: Gets the events of all connections.
        expected_calls: How many calls will follow.
        policy: All time limits; the defaults if None.
        known: The measurements of other jobs.

    Raises as :meth:`ConnectionManager.start`.
    """
    finder = OnlyReplica(transports) if isinstance(transports, Sequence) else transports
    manager = ConnectionManager(finder, journal, policy)
    try:
        yield manager, await manager.start(expected_calls, known)
    finally:
        await manager.close()
