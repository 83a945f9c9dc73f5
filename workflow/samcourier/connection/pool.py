"""The replicas of a service that run now, and which of them takes the next call.

They share the work by speed. One that dies costs its calls under way, which go elsewhere; one
that comes up later joins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from ..errors import CourierError, ServiceGone
from ..results.connection_log import ConnectionJournal
from ..results.service_description import ServiceDescription
from ..transports.base import Transport
from .description import RunIdentity
from .link import Link
from .load_balancing import next_replica
from .replica import Replica
from .retry import Patience, may_pass
from .shared_measurements import Measurements
from .throughput import Payload


class FindReplicas(Protocol):
    """Finds the replicas of a service that run now."""

    async def find(self) -> Mapping[str | None, Sequence[Transport]]:
        """Return the transports of each replica, in order of preference, by its name."""
        ...

    async def close(self) -> None:
        """Release what finding needed."""
        ...


MakeReplica = Callable[[str | None, Sequence[Transport], RunIdentity], Replica]

#: Replicas that came or went are noticed this often.
FIND_AGAIN_S = 30.0


class ReplicaPool:
    """Starts the replicas that ``finder`` finds, keeps their number current, and hands them out."""

    def __init__(self, finder: FindReplicas, make: MakeReplica, journal: ConnectionJournal) -> None:
        self.replicas: list[Replica] = []
        self._finder = finder
        self._make = make
        self._journal = journal
        self._identity = RunIdentity()
        self._known: Measurements | None = None
        self._description: ServiceDescription | None = None
        self._failure: BaseException | None = None
        self._joining: dict[str | None, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._room = asyncio.Condition()
        self._finding: asyncio.Task[None] | None = None

    @property
    def capacity(self) -> int:
        """How many calls the service takes at once from this client."""
        return sum(replica.limit for replica in self.replicas)

    async def start(self, known: Measurements | None, patience: Patience) -> ServiceDescription:
        """Start every replica and return the description by the first that answers.

        What may pass by itself is waited for as long as ``patience`` lasts. Raises Denied,
        RequestRefused or InputError at once, and at last the reason why none answers.
        """
        self._known = known
        while True:
            try:
                description = await self._first_to_join()
                break
            except CourierError as error:
                if not may_pass(error) or not await patience.pause():
                    raise
        self._finding = asyncio.ensure_future(self._find_again())
        return description

    async def _first_to_join(self) -> ServiceDescription:
        self._failure = None
        await self._take_in()
        while self._description is None:
            if not self._joining:
                raise self._failure or ServiceGone("no replica of the service is registered")
            await asyncio.wait(self._joining.values(), return_when=asyncio.FIRST_COMPLETED)
            # Their callbacks have to run before they count as ended.
            await asyncio.sleep(0)
        return self._description

    async def _find_again(self) -> None:
        while True:
            await asyncio.sleep(FIND_AGAIN_S)
            with suppress(CourierError):
                await self._take_in()

    async def refresh(self) -> None:
        """Look for replicas now, because those known do not answer."""
        with suppress(CourierError):
            await self._take_in()
            if self._joining:
                await asyncio.wait(self._joining.values(), return_when=asyncio.FIRST_COMPLETED)

    async def _take_in(self) -> None:
        """Start the replicas that are new; let those go that are not registered any more."""
        found = await self._finder.find()
        for replica in [each for each in self.replicas if each.name not in found]:
            # The last one stays, to say why it cannot be reached.
            if not replica.in_flight and len(self.replicas) > 1:
                self.replicas.remove(replica)
                self._journal.record("replica_left", replica=replica.name)
                # Closed apart, so that a look that is cut short leaves nothing open.
                leaving = asyncio.ensure_future(replica.close())
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
        for name in found.keys() - {each.name for each in self.replicas} - self._joining.keys():
            task = asyncio.ensure_future(self._join(self._make(name, found[name], self._identity)))
            self._joining[name] = task
            task.add_done_callback(lambda _, name=name: self._joining.pop(name))  # type: ignore[misc]

    async def _join(self, replica: Replica) -> None:
        try:
            description = await replica.start(self._known)
            self._identity.settle(description.identity)
        except BaseException as error:
            self._failure = self._failure or error
            await replica.close()
            if not isinstance(error, CourierError):
                raise
            self._journal.record("replica_refused", replica=replica.name, reason=str(error))
            return
        self._description = self._description or description
        self.replicas.append(replica)
        if replica.name is not None:
            self._journal.record("replica", replica=replica.name, limit=replica.limit)
        async with self._room:
            self._room.notify_all()

    @asynccontextmanager
    async def turn(self, payload: Payload, tried: set[Link]) -> AsyncIterator[Replica | None]:
        """Hold a place at the replica that is predicted to answer first, waiting for room.

        Yields None when every transport of every replica is in ``tried``.
        """
        replica = await self._take_turn(payload, tried)
        try:
            yield replica
        finally:
            if replica is not None:
                replica.in_flight -= 1
                async with self._room:
                    self._room.notify_all()

    async def _take_turn(self, payload: Payload, tried: set[Link]) -> Replica | None:
        async with self._room:
            while True:
                untried = [each for each in self.replicas if not tried.issuperset(each.links)]
                # One whose transports all rest is the last resort.
                usable = [each for each in untried if each.is_reachable(tried)] or untried
                if not usable:
                    return None
                place = next_replica([each.load(payload) for each in usable])
                if place is not None:
                    usable[place].in_flight += 1
                    return usable[place]
                await self._room.wait()

    async def close(self) -> None:
        """End the background work and close every replica."""
        tasks = [*self._joining.values(), *([self._finding] if self._finding else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._leaving)
        for replica in self.replicas:
            await replica.close()
        await self._finder.close()
