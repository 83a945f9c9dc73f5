"""One replica of the service: its transports, the one in use, and the speed of the replica."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..concurrency import cancel_all
from ..errors import CourierError, ServiceGone
from ..results.connection_log import ConnectionJournal
from ..results.image_log import Attempt
from ..results.service_description import CallLimits, ServiceDescription
from ..results.timestamps import utc_now
from ..transports.base import Transport
from .call import Call, attempt_record
from .description import RunIdentity
from .flow import MAX_COUNT, MAX_PARALLEL_CALLS, ServiceLoad, calls_at_once
from .link import PING, Link
from .load_balancing import Load
from .prober import Prober
from .ranking import Choice, rank
from .retry import is_temporary
from .shared_measurements import Measurements
from .throughput import Estimate, Payload, Sample
from .time_limits import Policy
from .watchdog import Watchdog

T = TypeVar("T")

#: The service's seconds are the median of this many calls.
_KEPT_SERVICE_SECONDS = 5


class Replica:
    """Calls one replica of the service over its fastest transport.

    Args:
        name: The name of the replica, None for a service with one replica.
        transports: Its transports in order of preference.
        journal: Gets the events of all connections.
        policy: All time limits.
        clock: Returns monotonic seconds.
        calls_left: Returns how many calls are still expected.
        identity: The identity that the service must have.
    """

    def __init__(
        self,
        name: str | None,
        transports: Sequence[Transport],
        journal: ConnectionJournal,
        policy: Policy,
        clock: Callable[[], float],
        calls_left: Callable[[], int],
        identity: RunIdentity,
    ) -> None:
        self.name = name
        self.links = [Link(each, journal, policy, clock, name, identity) for each in transports]
        self.current: str | None = None
        self.in_flight = 0
        self.in_parallel = 1
        self.limit = 1
        self._journal = journal
        self._policy = policy
        self._clock = clock
        self._calls_left = calls_left
        self._queue = 0
        self._max_queue: int | None = None
        self._service_s: deque[float] = deque(maxlen=_KEPT_SERVICE_SECONDS)
        self._prober: Prober | None = None
        self._background: list[asyncio.Task[None]] = []

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates of each measured transport, by name."""
        return {link.name: link.estimate for link in self.links if link.is_measured}

    @property
    def up_bytes_per_s(self) -> float | None:
        """The upload rate of the transport in use, in bytes per second; None until measured."""
        used = self._link_in_use()
        return used.estimate.up_bytes_per_s if used else None

    @property
    def last_progress_s(self) -> float:
        """When the service was last seen to have finished an image, of any client."""
        return max(link.liveness.last_progress_s for link in self.links)

    def _link_in_use(self) -> Link | None:
        return next((link for link in self.links if link.name == self.current), None)

    def load(self, payload: Payload) -> Load:
        """Return its load, for :func:`samcourier.connection.load_balancing.next_replica`."""
        best = self._ranked(payload, set())
        return Load(
            travel_s=best[0].predicted_s if best else None,
            service_s=statistics.median(self._service_s) if self._service_s else None,
            in_flight=self.in_flight,
            limit=self.limit,
            in_parallel=self.in_parallel,
        )

    async def start(self, known: Measurements | None = None) -> ServiceDescription:
        """Open the first transport that works and return the service's description.

        ``known`` are the measurements of other jobs: the transport they used last is opened first.
        When a transport is slow to open, the next one is opened at the same time; all others are
        opened in the background. The description is empty when the service has no ``describe``.

        Raises Denied; ServiceGone when no transport works; the first failure when all of them are
        permanent.
        """
        known_estimates = known.estimates if known is not None else {}
        for link in self.links:
            link.estimate = known_estimates.get(link.name, Estimate())
        last_used = known.last_used if known is not None else None
        in_order = sorted(self.links, key=lambda link: link.name != last_used)
        link, description = await self._first_to_open(in_order)
        self.current = link.name
        self._note_limits(description.limits)
        self._prober = Prober(self.links, self._calls_left, self._link_in_use)
        watch = Watchdog(self.links, self._policy, self._clock)
        self._background += [
            asyncio.ensure_future(self._prober.run()),
            asyncio.ensure_future(watch.run()),
        ]
        return description

    async def _first_to_open(self, links: Sequence[Link]) -> tuple[Link, ServiceDescription]:
        """Open one transport after another, each with a head start (as RFC 8305 does)."""
        openings: dict[asyncio.Task[ServiceDescription], Link] = {}
        waiting, errors = list(links), list[CourierError]()
        try:
            while waiting or openings:
                if waiting:
                    link = waiting.pop(0)
                    openings[asyncio.ensure_future(self._open(link))] = link
                done, _ = await asyncio.wait(
                    openings,
                    timeout=self._policy.head_start_s if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    link, error = openings.pop(task), task.exception()
                    if error is None:
                        return link, task.result()
                    if not isinstance(error, CourierError) or error.kind == "denied":
                        raise error
                    errors.append(error)
        finally:
            # The others go on opening: a late one is a second transport.
            self._background += [
                asyncio.ensure_future(_wait_for_opening(task)) for task in openings
            ]
        if errors and not any(map(is_temporary, errors)):
            raise errors[0]
        raise self.unreachable_error()

    async def _open(self, link: Link) -> ServiceDescription:
        generation = link.generation
        try:
            await link.open()
            generation = link.generation
            if not link.description.is_empty:
                await link.probe(PING)
        except CourierError as error:
            link.back_off(error, generation)
            # WebSocket and WebRTC share a session: it must be closed before it is opened anew.
            await link.wait_until_closed()
            raise
        return link.description

    def _note_limits(self, limits: CallLimits) -> None:
        self.in_parallel = min(limits.in_parallel, MAX_PARALLEL_CALLS)
        self._max_queue = limits.max_queue
        self.limit = calls_at_once(self.in_parallel, self._max_queue)
        self._queue = min(limits.max_queue or 0, MAX_COUNT)

    def _note_load(self, answer: Any) -> None:
        """Follow the depth of the service's pipeline, and share it with the user's other jobs."""
        load = ServiceLoad.of(answer)
        if load.depth is None:
            return
        self.in_parallel = min(load.depth, MAX_PARALLEL_CALLS)
        # The answered image has left the service, but its call is still in flight here.
        at_service = None if load.caller_images is None else load.caller_images + 1
        self.limit = calls_at_once(self.in_parallel, self._max_queue, self.in_flight, at_service)

    def choose(self, payload: Payload, tried: set[Link]) -> Choice | None:
        """Choose the best transport not in ``tried``; a failed one only when no other is left.

        Returns None when every transport is in ``tried``.
        """
        ranking = self._ranked(payload, tried)
        if not ranking:
            untried = [link for link in self.links if link not in tried]
            ranking = [Choice(link.name, None, "no other transport is left") for link in untried]
        if not ranking:
            return None
        on_trial = self._prober.trial(payload) if self._prober is not None else None
        for choice in ranking:
            if on_trial is not None and choice.name == on_trial.name != ranking[0].name:
                return replace(choice, reason=f"on trial: {choice.reason}")
        choice = ranking[0]
        if choice.name != self.current:
            self._journal.record(
                "switch",
                from_transport=self.current,
                to_transport=choice.name,
                replica=self.name,
                reason=choice.reason,
            )
            self.current = choice.name
        return choice

    def _ranked(self, payload: Payload, tried: set[Link]) -> list[Choice]:
        candidates = [
            link.candidate(self.current, "failed for this image" if link in tried else None)
            for link in self.links
        ]
        return rank(candidates, payload, self.current, time.time())

    def is_reachable(self, tried: set[Link]) -> bool:
        """Tell whether any transport not in ``tried`` can be used."""
        return any(
            link.candidate(self.current).blocked is None for link in self.links if link not in tried
        )

    def was_heard(self, transport: str, since_s: float) -> bool:
        """Tell whether a transport opened, or its far side was heard, since ``since_s``."""
        return any(
            link.liveness.last_heard_s >= since_s for link in self.links if link.name == transport
        )

    async def has_queue_space(self, transport: str) -> bool:
        """Ask over a transport whether the service's queue has space for one more image."""
        return await next(link for link in self.links if link.name == transport).has_queue_space()

    async def hold(self, payload: Payload) -> None:
        """Wait shortly while the transports are still being compared."""
        if self._prober is not None:
            await self._prober.hold(payload)

    async def attempt(
        self, choice: Choice, call: Call[T], deadline_s: float
    ) -> tuple[Attempt, T | None, CourierError | None]:
        """Make one attempt over the chosen transport, and close the transport if it failed.

        Args:
            choice: The transport and why it was chosen.
            call: The call to the service.
            deadline_s: The end of the attempt, on the clock of this replica.

        Returns:
            The record of the attempt, the accepted value if it succeeded, and the failure if not.
        """
        link = next(link for link in self.links if link.name == choice.name)
        started_at, start_s = utc_now(), self._clock()
        accepted: T | None = None
        error: CourierError | None = None
        sample: Sample | None = None
        alone: Sample | None = None
        answered_s: float | None = None
        generation = link.generation
        try:
            await link.open()
            generation = link.generation
            start_s = self._clock()
            timeout_s = max(min(self._policy.attempt_timeout_s, deadline_s - start_s), 0.1)
            value, sample, alone = await link.call(
                call.method, call.arguments, call.payload, timeout_s, self._queue
            )
            answered_s = self._clock()
            self._note_load(value)
            accepted = await call.accept(value)
        except CourierError as caught:
            error = caught
        total_s = (answered_s or self._clock()) - start_s
        if error is not None and error.must_leave_transport:
            link.back_off(error, generation)
        if sample is not None and self._prober is not None:
            self._prober.note_answer(sample.payload)
        attempt = attempt_record(
            choice, self.name, started_at, call.payload, total_s, sample, alone, error
        )
        if attempt.seconds.service is not None:
            self._service_s.append(attempt.seconds.service)
        return attempt, accepted, error

    def unreachable_error(self) -> ServiceGone:
        """Return the error that no transport reaches the service, with the failure of each."""
        reasons = "; ".join(
            f"{link.name}: {link.last_failure.removeprefix(f'{link.name}: ')}"
            for link in self.links
            if link.last_failure
        )
        return ServiceGone(f"no transport reaches the service ({reasons or 'none was tried'})")

    async def close(self) -> None:
        """End the background work and close every transport."""
        await cancel_all(self._background)
        for link in self.links:
            await link.close()


async def _wait_for_opening(opening: asyncio.Task[ServiceDescription]) -> None:
    """Wait for an opening whose result is not needed; the journal has its outcome."""
    try:
        await asyncio.wait({opening})
    finally:
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening})
    if not opening.cancelled():
        opening.exception()
