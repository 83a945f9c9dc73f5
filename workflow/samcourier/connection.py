"""The connection manager: which transport carries the next call, and what follows a failure.

It starts on the preferred transport at once, brings the others up beside it, measures each
with a payload of the size really sent, and calls over the one that is predicted fastest.
A failed way is left at once, with the same image, and looked at again later.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .call import Answer, Call, CallFailed, attempt_record
from .choose import Candidate, Choice, Estimate, Payload, Sample, learn, rank
from .errors import CourierError, ServiceGone, TransportFailed
from .journal import Attempt, ConnectionJournal, utc_now
from .measure import clock_offset_s, sample_of
from .retry import Patience, Policy, what_next
from .transports.base import Transport

T = TypeVar("T")

#: A probe costs bytes: with fewer calls left than this it cannot pay for itself.
PROBE_MIN_CALLS_LEFT = 3

#: Many chunks of every transport, so it tells the rate, at a bounded cost.
PROBE_MAX_BYTES = 1 << 20

#: The round trip is measured with next to nothing.
_PING = Payload(0, 0)


@dataclass
class _Link:
    """One transport and what is known of it."""

    transport: Transport
    is_open: bool = False
    estimate: Estimate | None = None
    clock_offset_s: float = 0.0
    rests_until_s: float = 0.0
    last_failure: str | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return self.transport.name


class ConnectionManager:
    """Calls over the fastest working transport. ``transports`` come in order of preference."""

    def __init__(
        self,
        transports: Sequence[Transport],
        journal: ConnectionJournal,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links: dict[str, _Link] = {
            transport.name: _Link(transport) for transport in transports
        }
        self._journal = journal
        self._policy = policy or Policy()
        self._clock = clock
        self._current: str | None = None
        self._scout: asyncio.Task[None] | None = None
        self._first_payload: asyncio.Future[Payload] | None = None
        self._calls_left = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, expected_calls: int) -> dict[str, Any]:
        """Open the first transport that works and return what the service says of itself.

        The others come up in the background. An empty description is that of a service which
        has no ``describe``. Raises Denied, or ServiceGone when no transport works.
        """
        self._calls_left = expected_calls
        self._first_payload = asyncio.get_running_loop().create_future()
        for name, link in self._links.items():
            try:
                await self._open(link)
                description = await self._describe(link)
                if description:
                    await self._probe(link, _PING)
            except CourierError as error:
                self._leave(link, error)
                if error.kind == "denied":
                    raise
                # WebSocket and WebRTC share a session: it must be closed before it is opened anew.
                await asyncio.gather(*self._closing)
                continue
            self._current = name
            self._scout = asyncio.ensure_future(self._bring_up_others())
            return description
        raise self._gone()

    async def _describe(self, link: _Link) -> dict[str, Any]:
        try:
            return dict(await link.transport.call("describe", {}, self._policy.open_timeout_s))
        except CourierError as error:
            if error.name == "NoSuchMethod":
                return {}
            raise

    async def close(self) -> None:
        """End the background work and close every transport."""
        if self._scout is not None:
            self._scout.cancel()
            with suppress(asyncio.CancelledError):
                await self._scout
        for link in self._links.values():
            link.is_open = False
            await link.transport.close()
        if self._closing:
            await asyncio.gather(*self._closing)

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
                outcome = await self._attempt(choice, call, deadline_s)
                attempt, value, error = outcome
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
                    self._leave(self._links[choice.name], error)
                elif step == "wait":
                    await self._wait_for_room(overload_waits, deadline_s)
                    overload_waits += 1
        finally:
            self._calls_left -= 1

    async def _attempt(
        self, choice: Choice, call: Call[T], deadline_s: float
    ) -> tuple[Attempt, T | None, CourierError | None]:
        """Try one transport once; the outcome is an Attempt in any case."""
        link = self._links[choice.name]
        started_at, start_s = utc_now(), self._clock()
        accepted: T | None = None
        error: CourierError | None = None
        sample: Sample | None = None
        answered_s = start_s
        try:
            await self._open(link)
            start_s = self._clock()
            timeout_s = min(self._policy.attempt_timeout_s, deadline_s - start_s)
            sent_unix_s = time.time()
            value = await link.transport.call(call.method, call.arguments, max(timeout_s, 0.1))
            answered_s = self._clock()
            sample = sample_of(value, call.payload.up_bytes, sent_unix_s, link.clock_offset_s)
            accepted = await call.accept(value)
        except CourierError as caught:
            error = caught
            if sample is None:
                answered_s = self._clock()
        if sample is not None:
            link.estimate = learn(link.estimate, sample)
            self._note_payload(sample.payload)
        total_s = answered_s - start_s
        return (
            attempt_record(choice, started_at, call.payload, total_s, sample, error),
            accepted,
            error,
        )

    def _choose(self, payload: Payload, tried: set[str]) -> Choice | None:
        """Take the best transport not tried for this call, a resting one only as a last resort."""
        candidates = [self._candidate(link, tried) for link in self._links.values()]
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

    def _candidate(self, link: _Link, tried: set[str]) -> Candidate:
        blocked = None
        if link.name in tried:
            blocked = "failed for this image"
        elif link.rests_until_s > self._clock():
            blocked = f"failed: {link.last_failure}"
        elif not link.is_open and link.estimate is None and link.name != self._current:
            blocked = "not open yet"
        return Candidate(link.name, link.estimate, blocked)

    async def _open(self, link: _Link) -> None:
        """Open a link once, whoever asks."""
        async with link.opening:
            if link.is_open:
                return
            start_s = self._clock()
            await link.transport.open(self._policy.open_timeout_for(link.name))
            link.is_open = True
            self._journal.record("open", transport=link.name, seconds=self._clock() - start_s)

    async def _probe(self, link: _Link, payload: Payload) -> None:
        """Measure a link with bytes of a call's size; the ping also compares the clocks."""
        arguments = {
            "payload": random.randbytes(payload.up_bytes),
            "reply_bytes": payload.down_bytes,
        }
        sent_unix_s = time.time()
        value = await link.transport.call("probe", arguments, self._policy.probe_timeout_s)
        if payload == _PING:
            link.clock_offset_s = clock_offset_s(value, sent_unix_s)
        sample = sample_of(value, payload.up_bytes, sent_unix_s, link.clock_offset_s)
        if sample is None:
            raise TransportFailed("the answer to a probe holds no times")
        link.estimate = learn(link.estimate, sample)
        self._journal.record(
            "probe",
            transport=link.name,
            bytes_up=payload.up_bytes,
            bytes_down=payload.down_bytes,
            seconds=sample.send_s + sample.receive_s,
        )

    async def _bring_up_others(self) -> None:
        """Open and measure every transport beside the calls; a failure only means one less."""
        for link in self._links.values():
            with self._leaving_on_failure(link):
                await self._open(link)
                if link.estimate is None:
                    await self._probe(link, _PING)
        assert self._first_payload is not None
        first = await self._first_payload
        payload = Payload(
            min(first.up_bytes, PROBE_MAX_BYTES), min(first.down_bytes, PROBE_MAX_BYTES)
        )
        for link in self._links.values():
            measured = link.estimate is not None and link.estimate.up_bytes_per_s is not None
            if link.is_open and not measured and self._calls_left >= PROBE_MIN_CALLS_LEFT:
                with self._leaving_on_failure(link):
                    await self._probe(link, payload)

    @contextmanager
    def _leaving_on_failure(self, link: _Link) -> Iterator[None]:
        try:
            yield
        except CourierError as error:
            self._leave(link, error)

    def _note_payload(self, payload: Payload) -> None:
        if self._first_payload is not None and not self._first_payload.done():
            self._first_payload.set_result(payload)

    def _leave(self, link: _Link, error: CourierError) -> None:
        """Close a failed way and let it rest; it is tried again afterwards."""
        link.is_open = False
        link.last_failure = str(error)
        link.rests_until_s = self._clock() + self._policy.rest_after_failure_s
        self._journal.record(
            "left",
            transport=link.name,
            kind=error.kind,
            error=str(error),
            rest_s=self._policy.rest_after_failure_s,
        )
        closing = asyncio.ensure_future(link.transport.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

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
) -> AsyncIterator[tuple[ConnectionManager, dict[str, Any]]]:
    """Yield a started manager and the service's description; close everything at the end."""
    manager = ConnectionManager(transports, journal, policy)
    try:
        yield manager, await manager.start(expected_calls)
    finally:
        await manager.close()
