"""The connection manager: which transport carries the next call, and what follows a failure.

It starts on the preferred transport at once, brings the others up beside it, measures each
with a payload of the size really sent, and calls over the one that is predicted fastest.
A failed way is left at once, with the same image, and looked at again later.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from .call import Answer, Call, CallFailed, attempt_record
from .choose import Candidate, Choice, Estimate, Payload, Sample, rank
from .errors import CourierError, ServiceGone
from .journal import Attempt, ConnectionJournal, utc_now
from .link import PING, Link
from .measurements import Measurements
from .retry import Patience, Policy, what_next
from .scout import Scout
from .transports.base import Transport

T = TypeVar("T")


class ConnectionManager:
    """Calls over the fastest working transport. ``transports`` come in order of preference."""

    def __init__(
        self,
        transports: Sequence[Transport],
        journal: ConnectionJournal,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._policy = policy or Policy()
        self._clock = clock
        self._links: dict[str, Link] = {
            each.name: Link(each, journal, self._policy, clock) for each in transports
        }
        self._current: str | None = None
        self._scout: Scout | None = None
        self._scouting: asyncio.Task[None] | None = None

    @property
    def current(self) -> str | None:
        """The transport that carried the last call."""
        return self._current

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What is known of each measured transport."""
        return {link.name: link.estimate for link in self._links.values() if link.estimate}

    @property
    def up_bytes_per_s(self) -> float | None:
        """The rate at which the transport in use carries images, None until measured."""
        link = self._links.get(self._current or "")
        return link.estimate.up_bytes_per_s if link and link.estimate else None

    async def start(self, expected_calls: int, known: Measurements | None = None) -> dict[str, Any]:
        """Open the first transport that works and return what the service says of itself.

        ``known`` is what other jobs measured: the transport they ended on goes first. The
        others come up in the background. An empty description is that of a service which has
        no ``describe``. Raises Denied, or ServiceGone when no transport works.
        """
        if known is not None:
            for name, estimate in known.estimates.items():
                if name in self._links:
                    self._links[name].estimate = estimate
        last_used = known.last_used if known is not None else None
        for link in sorted(self._links.values(), key=lambda link: link.name != last_used):
            try:
                await link.open()
                description = await self._describe(link)
                if description:
                    await link.probe(PING)
            except CourierError as error:
                link.leave(error, link.generation)
                if error.kind == "denied":
                    raise
                # WebSocket and WebRTC share a session: it must be closed before it is opened anew.
                await link.closed()
                continue
            self._current = link.name
            self._scout = Scout(list(self._links.values()), expected_calls)
            self._scouting = asyncio.ensure_future(self._scout.run())
            return description
        raise self._gone()

    async def _describe(self, link: Link) -> dict[str, Any]:
        try:
            return dict(await link.transport.call("describe", {}, self._policy.open_timeout_s))
        except CourierError as error:
            if error.name == "NoSuchMethod":
                return {}
            raise

    async def close(self) -> None:
        """End the background work and close every transport."""
        if self._scouting is not None:
            self._scouting.cancel()
            with suppress(asyncio.CancelledError):
                await self._scouting
        for link in self._links.values():
            await link.close()

    async def call(self, call: Call[T]) -> Answer[T]:
        """Call until answered or given up.

        Raises CallFailed whose ``cause`` is the failure class that decided.
        """
        attempts: list[Attempt] = []
        tried: set[str] = set()
        service_failures = overload_waits = 0
        deadline_s = self._clock() + self._policy.image_timeout_s
        patience = Patience(self._policy, self._clock)
        try:
            while True:
                choice = self._choose(call.payload, tried)
                if choice is None:
                    if not await patience.pause():
                        raise CallFailed(self._gone(), attempts)
                    tried.clear()
                    continue
                link = self._links[choice.name]
                outcome = await self._attempt(choice, call, deadline_s)
                attempt, value, error, generation = outcome
                attempts.append(attempt)
                if error is None:
                    assert value is not None
                    return Answer(value, tuple(attempts))
                service_failures += error.kind == "service" and not isinstance(error, ServiceGone)
                step = what_next(error, service_failures, self._policy)
                if step == "give_up" or self._clock() >= deadline_s:
                    raise CallFailed(error, attempts)
                if step == "next_transport":
                    tried.add(choice.name)
                    link.leave(error, link.generation if generation is None else generation)
                elif step == "wait":
                    await self._wait_for_room(overload_waits, deadline_s)
                    overload_waits += 1
        finally:
            if self._scout is not None:
                self._scout.note_end()

    async def _attempt(
        self, choice: Choice, call: Call[T], deadline_s: float
    ) -> tuple[Attempt, T | None, CourierError | None, int | None]:
        """Try one transport once; the outcome is an Attempt in any case.

        Last comes the link's opening that was used, None when it did not open.
        """
        link = self._links[choice.name]
        started_at, start_s = utc_now(), self._clock()
        accepted: T | None = None
        error: CourierError | None = None
        sample: Sample | None = None
        generation: int | None = None
        answered_s = start_s
        try:
            await link.open()
            generation = link.generation
            start_s = self._clock()
            timeout_s = min(self._policy.attempt_timeout_s, deadline_s - start_s)
            sent_unix_s = time.time()
            value = await link.transport.call(call.method, call.arguments, max(timeout_s, 0.1))
            answered_s = self._clock()
            sample = link.learn(value, call.payload, sent_unix_s)
            accepted = await call.accept(value)
        except CourierError as caught:
            error = caught
            if sample is None:
                answered_s = self._clock()
        if sample is not None and self._scout is not None:
            self._scout.note_call(sample.payload)
        total_s = answered_s - start_s
        return (
            attempt_record(choice, started_at, call.payload, total_s, sample, error),
            accepted,
            error,
            generation,
        )

    def _choose(self, payload: Payload, tried: set[str]) -> Choice | None:
        """Take the best transport not tried for this call, a resting one only as a last resort."""
        candidates = [link.candidate(tried, self._current) for link in self._links.values()]
        ranking = rank(candidates, payload, self._current)
        if not ranking:
            untried = [Candidate(c.name, c.estimate) for c in candidates if c.name not in tried]
            ranking = rank(untried, payload)
        if not ranking:
            return None
        choice = ranking[0]
        if choice.name != self._current:
            self._journal.record(
                "switch",
                from_transport=self._current,
                to_transport=choice.name,
                reason=choice.reason,
            )
            self._current = choice.name
        return choice

    async def _wait_for_room(self, waits: int, deadline_s: float) -> None:
        """Sleep longer each time the service is full, at random so that jobs spread out."""
        pause_s = random.uniform(0.5, 1) * self._policy.overload_ceiling_s(waits)
        pause_s = max(min(pause_s, deadline_s - self._clock()), 0.0)
        self._journal.record("overloaded", wait_s=pause_s)
        await asyncio.sleep(pause_s)

    def _gone(self) -> ServiceGone:
        reasons = "; ".join(
            f"{link.name}: {link.last_failure.removeprefix(f'{link.name}: ')}"
            for link in self._links.values()
            if link.last_failure
        )
        return ServiceGone(f"no transport reaches the service ({reasons or 'none was tried'})")


@asynccontextmanager
async def connected(
    transports: Sequence[Transport],
    journal: ConnectionJournal,
    expected_calls: int,
    policy: Policy | None = None,
    known: Measurements | None = None,
) -> AsyncIterator[tuple[ConnectionManager, dict[str, Any]]]:
    """Yield a started manager and the service's description; close everything at the end."""
    manager = ConnectionManager(transports, journal, policy)
    try:
        yield manager, await manager.start(expected_calls, known)
    finally:
        await manager.close()
