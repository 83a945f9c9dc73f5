"""The connection manager: which transport carries the next call, and what follows a failure.

It starts on the preferred transport at once, brings the others up beside it, measures each
with a payload of the size really sent, and calls over the one that is predicted fastest.
A failed way is left at once, with the same image, and looked at again later.
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
from .retry import Patience, Policy, what_next
from .shared_measurements import Measurements
from .throughput import Estimate

T = TypeVar("T")


class ConnectionManager:
    """Calls over the fastest working transport of the replica that answers first."""

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
        #: How many calls are still expected: what is spent on measuring must pay over these.
        self.calls_left = 0
        self._got_on_s = -math.inf
        self._asking = asyncio.Lock()
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
        """The transport in use; of the first replica, where there are several."""
        return self._first.current if self._first else None

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What is known of each measured transport; of the first replica."""
        return self._first.estimates if self._first else {}

    @property
    def up_bytes_per_s(self) -> float | None:
        """The rate at which the transport in use carries images, None until measured."""
        return self._first.up_bytes_per_s if self._first else None

    @property
    def capacity(self) -> int:
        """How many calls the service takes at once from this client."""
        return self._pool.capacity

    async def start(
        self, expected_calls: int, known: Measurements | None = None
    ) -> ServiceDescription:
        """Open the service and return what it says of itself; {} when it has no ``describe``.

        ``known`` is what other jobs measured. An outage is waited for as during a call. Raises
        what cannot pass by itself at once (Denied, RequestRefused, InputError), and ServiceGone,
        Overloaded or TransportFailed when no transport works.
        """
        self.calls_left = expected_calls
        return await self._pool.start(known, Patience(self._policy, self._clock))

    def expect(self, more_calls: int) -> None:
        """Correct what :meth:`start` was told, once an image turns out to take more or fewer."""
        self.calls_left += more_calls

    async def close(self) -> None:
        """End the background work and close every transport."""
        await self._pool.close()

    async def call(self, call: Call[T]) -> Answer[T]:
        """Call until answered or given up.

        Raises CallFailed whose ``cause`` is the failure class that decided.
        """
        attempts: list[Attempt] = []
        tried: set[Link] = set()
        service_failures = waits = 0
        patience = Patience(self._policy, self._clock)
        start_s = self._clock()
        if self._first is not None:
            await self._first.hold(call.payload)
        try:
            while True:
                async with self._pool.turn(call.payload, tried) as replica:
                    choice = replica.choose(call.payload, tried) if replica else None
                    if replica is not None and choice is not None:
                        attempt_start_s = self._clock()
                        outcome = await replica.attempt(choice, call, self._ends_s(start_s))
                if replica is None or choice is None:
                    if not await patience.pause():
                        raise CallFailed(patience.ending(self._gone()), attempts)
                    tried.clear()
                    await self._pool.refresh()
                    continue
                attempt, value, error = outcome
                attempts.append(attempt)
                if error is None:
                    assert value is not None
                    return Answer(value, tuple(attempts))
                patience.note(error, was_heard=replica.was_heard(choice.name, attempt_start_s))
                service_failures += error.kind == "service" and not isinstance(error, ServiceGone)
                step = what_next(error, service_failures, self._policy)
                if step == "next_transport":
                    tried.update(self._spent(replica, choice.name, error))
                elif step == "wait":
                    waits = await self._wait_for_room(replica, choice.name, waits, start_s)
                if step == "give_up" or self._clock() >= self._ends_s(start_s):
                    raise CallFailed(error, attempts)
        finally:
            self.calls_left -= 1

    def _spent(self, replica: Replica, transport: str, error: CourierError) -> list[Link]:
        """Return the ways that are not worth a try for this image after ``error``."""
        has_others = len(self._pool.replicas) > 1
        if isinstance(error, ServiceGone) and has_others:
            return replica.links
        return [link for link in replica.links if link.name == transport]

    def _ends_s(self, start_s: float) -> float:
        """Return when an image's time is over; while the service gets on, it is the others'."""
        self._got_on_s = max([self._got_on_s, *(each.got_on_s for each in self._pool.replicas)])
        return max(start_s, self._got_on_s) + self._policy.image_timeout_s

    async def _wait_for_room(
        self, replica: Replica, transport: str, waits: int, start_s: float
    ) -> int:
        """Sleep until the full service has room or the image's time is over; return all its waits.

        Longer each time, at random so that jobs spread out. Images carried to a full queue again
        and again would fill the network, so a word asks whether there is room, for one at a time.
        """
        is_behind = self._asking.locked()
        async with self._asking:
            # Where the one before found room, there may be more.
            if is_behind and await replica.has_room(transport):
                return waits
            while (left_s := self._ends_s(start_s) - self._clock()) > 0:
                pause_s = random.uniform(0.5, 1) * self._policy.overload_ceiling_s(waits)
                # Often enough to see the service get on.
                pause_s = min(pause_s, left_s, self._policy.image_timeout_s / 4)
                self._journal.record("overloaded", wait_s=pause_s)
                await asyncio.sleep(pause_s)
                waits += 1
                # Of several replicas another may have it.
                if len(self._pool.replicas) > 1 or await replica.has_room(transport):
                    break
        return waits

    def _gone(self) -> ServiceGone:
        return (
            self._first.gone() if self._first else ServiceGone("no replica of the service is left")
        )


class OnlyReplica:
    """A service that runs once, reached by ``transports`` in order of preference."""

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = transports

    async def find(self) -> dict[str | None, Sequence[Transport]]:
        """Return the one replica, which has no name."""
        return {None: self._transports}

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def connected(
    transports: Sequence[Transport] | FindReplicas,
    journal: ConnectionJournal,
    expected_calls: int,
    policy: Policy | None = None,
    known: Measurements | None = None,
) -> AsyncIterator[tuple[ConnectionManager, ServiceDescription]]:
    """Yield a started manager and the service's description; close everything at the end.

    ``transports`` are those of a service that runs once, in order of preference, or what finds
    the replicas of one that may run several times.
    """
    finder = OnlyReplica(transports) if isinstance(transports, Sequence) else transports
    manager = ConnectionManager(finder, journal, policy)
    try:
        yield manager, await manager.start(expected_calls, known)
    finally:
        await manager.close()
