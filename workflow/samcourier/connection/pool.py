"""The pool of a service's replicas: it assigns each call to one of them.

The replicas share the work by speed. When one dies, its calls in flight go to the others; a
replica that starts later is added to the pool.
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
from .retry import OutageWait, is_temporary
from .shared_measurements import Measurements
from .throughput import Payload


class FindReplicas(Protocol):
    """Finds the running replicas of a service."""

    async def find(self) -> Mapping[str | None, Sequence[Transport]]:
        """Return the transports of each replica, in order of preference, by the replica's name."""
        ...

    async def close(self) -> None:
        """Release the connection that the search used."""
        ...


MakeReplica = Callable[[str | None, Sequence[Transport], RunIdentity], Replica]

#: The pool looks for new and removed replicas this often.
UPDATE_INTERVAL_S = 30.0


class ReplicaPool:
    """Starts the replicas that ``finder`` finds, updates them regularly, and assigns the calls.

    ``make`` builds a replica from its name, its transports and the expected identity.
    """

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
        self._closing_replicas: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._updating: asyncio.Task[None] | None = None

    @property
    def capacity(self) -> int:
        """How many calls the service accepts at once from this client."""
        return sum(replica.limit for replica in self.replicas)

    async def start(
        self, known: Measurements | None, outage_wait: OutageWait
    ) -> ServiceDescription:
        """Start every replica and return the description of the first one that answers.

        ``known`` are the measurements of other jobs. Temporary failures are retried until
        ``outage_wait`` ends. Raises Denied, RequestRefused or InputError at once, and otherwise
        the reason why no replica answers.
        """
        self._known = known
        while True:
            try:
                description = await self._first_description()
                break
            except CourierError as error:
                if not is_temporary(error) or not await outage_wait.pause():
                    raise
        self._updating = asyncio.ensure_future(self._update_periodically())
        return description

    async def _first_description(self) -> ServiceDescription:
        self._failure = None
        await self._update_replicas()
        while self._description is None:
            if not self._joining:
                raise self._failure or ServiceGone("no replica of the service is registered")
            await asyncio.wait(self._joining.values(), return_when=asyncio.FIRST_COMPLETED)
            # The callbacks of the tasks must run before the tasks count as ended.
            await asyncio.sleep(0)
        return self._description

    async def _update_periodically(self) -> None:
        while True:
            await asyncio.sleep(UPDATE_INTERVAL_S)
            with suppress(CourierError):
                await self._update_replicas()

    async def refresh(self) -> None:
        """Look for replicas now, because the known ones do not answer."""
        with suppress(CourierError):
            await self._update_replicas()
            if self._joining:
                await asyncio.wait(self._joining.values(), return_when=asyncio.FIRST_COMPLETED)

    async def _update_replicas(self) -> None:
        """Start the replicas that are new; close those that are no longer registered."""
        found = await self._finder.find()
        for replica in [each for each in self.replicas if each.name not in found]:
            # The last one stays, to report why it is unreachable.
            if not replica.in_flight and len(self.replicas) > 1:
                self.replicas.remove(replica)
                self._journal.record("replica_left", replica=replica.name)
                # In a task of its own, so that a cancelled update leaves nothing open.
                closing = asyncio.ensure_future(replica.close())
                self._closing_replicas.add(closing)
                closing.add_done_callback(self._closing_replicas.discard)
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
        async with self._changed:
            self._changed.notify_all()

    @asynccontextmanager
    async def reserve_replica(
        self, payload: Payload, tried: set[Link], preferred: str | None = None
    ) -> AsyncIterator[Replica | None]:
        """Reserve a call at the replica predicted to answer first; wait until one has capacity.

        ``payload`` are the bytes of the call. With the name of a ``preferred`` replica, it is that
        one as long as it is reachable. Yields None when every transport of every replica is
        in ``tried``.
        """
        replica = await self._reserve_replica(payload, tried, preferred)
        try:
            yield replica
        finally:
            if replica is not None:
                replica.in_flight -= 1
                async with self._changed:
                    self._changed.notify_all()

    async def _reserve_replica(
        self, payload: Payload, tried: set[Link], preferred: str | None
    ) -> Replica | None:
        async with self._changed:
            while True:
                untried = [each for each in self.replicas if not tried.issuperset(each.links)]
                # A replica whose transports have all failed is the last choice.
                usable = [each for each in untried if each.is_reachable(tried)] or untried
                if preferred is not None:
                    usable = [each for each in usable if each.name == preferred] or usable
                if not usable:
                    return None
                index = next_replica([each.load(payload) for each in usable])
                if index is not None:
                    usable[index].in_flight += 1
                    return usable[index]
                await self._changed.wait()

    async def close(self) -> None:
        """End the background work and close every replica."""
        tasks = [*self._joining.values(), *([self._updating] if self._updating else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing_replicas)
        for replica in self.replicas:
            await replica.close()
        await self._finder.close()
