"""One transport as the manager knows it: open or resting, and what was measured of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from ..concurrency import end_all
from ..errors import CourierError, ServiceGone, TransportFailed
from ..failure import Failure
from ..results.connection_log import ConnectionJournal
from ..results.service_description import ServiceDescription
from ..transports.base import Transport
from ..transports.known_defects import OTHER, find_defect
from .deadline import Deadline
from .description import RunIdentity, describe
from .liveness import Liveness
from .ranking import Candidate
from .retry import Policy
from .throughput import Estimate, Payload, Sample, learn, predict_s
from .timing import Traffic, clock_offset_s, sample_of

#: The round trip is measured with next to nothing.
PING = Payload(0, 0)


class Link:
    """Opens a transport when needed, calls over it, measures it, and lets it rest when it failed.

    ``generation`` counts the openings: a failure of an earlier one must not close a later one.
    """

    def __init__(
        self,
        transport: Transport,
        journal: ConnectionJournal,
        policy: Policy,
        clock: Callable[[], float],
        replica: str | None = None,
        identity: RunIdentity | None = None,
    ) -> None:
        self.transport = transport
        self.name = transport.name
        self.estimate = Estimate()
        #: What the service said of itself at the last opening; {} if it has no ``describe``.
        self.description = ServiceDescription()
        self.is_open = False
        self.generation = 0
        self.last_failure: str | None = None
        self._last_defect = ""
        #: Whether the server said that the service is not there.
        self.says_gone = False
        self.in_flight = 0
        self.signs = Liveness(transport, policy, clock)
        self._journal = journal
        self._policy = policy
        self._clock = clock
        self._replica = replica
        self._identity = identity or RunIdentity()
        self._rests_until_s = 0.0
        self._failures_in_a_row = 0
        self._needs_trial = False
        self._opening_count = 0
        self._clock_offset_s = 0.0
        self._traffic = Traffic()
        self._call_count = 0
        self._carried = PING
        self._lost: asyncio.Future[CourierError] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_measured(self) -> bool:
        """Whether anything but the round trip is known."""
        return bool(self.estimate.up or self.estimate.down)

    @property
    def wants_trial(self) -> bool:
        """Whether it failed, has rested, and is to be tried before an image is given to it."""
        return self._needs_trial and self._rests_until_s <= self._clock()

    @property
    def is_resting(self) -> bool:
        """Whether it failed and has not been tried since."""
        return self._needs_trial

    def candidate(self, current: str | None, refused: str | None = None) -> Candidate:
        """Return the transport as :func:`samcourier.connection.ranking.rank` wants to see it."""
        blocked = refused
        if blocked is None and (self._needs_trial or self._rests_until_s > self._clock()):
            blocked = f"failed: {self._last_defect}{self.last_failure}"
        elif blocked is None and not self.is_open and not self.is_measured and self.name != current:
            blocked = "not open yet"
        return Candidate(self.name, self.estimate, blocked)

    async def open(self) -> None:
        """Open the transport once, whoever asks, and look whether the service is still the same.

        Raises what the transport raises, and ServiceGone where another service answers.
        """
        async with self._opening:
            if self.is_open:
                return
            start_s = self._clock()
            await self.transport.open(self._policy.open_timeout_for(self.name))
            try:
                self.description = await describe(self.transport, self._policy.open_timeout_s)
                self._identity.check(self.description.identity)
            except CourierError:
                await self.transport.close()
                raise
            self.is_open, self.says_gone = True, False
            self.generation += 1
            self._opening_count += 1
            self.signs.opened()
            self._lost = asyncio.get_running_loop().create_future()
            self._record("open", seconds=self._clock() - start_s, state=self.transport.state())

    async def call(
        self,
        method: str,
        arguments: dict[str, Any],
        payload: Payload,
        timeout_s: float,
        most_before: int = 0,
    ) -> tuple[Any, Sample | None, Sample | None]:
        """Call over the open transport; return the answer, what it measured, and that as if alone.

        ``timeout_s`` begins anew with each of ``most_before`` images that the service finishes.
        Raises what the transport raises, and TransportFailed as soon as it counts as lost.
        """
        generation = self.generation
        sent_unix_s = time.time()
        token = self._traffic.begin(payload, sent_unix_s)
        self.in_flight += 1
        self.signs.carried()
        try:
            deadline = Deadline(self._clock(), timeout_s, most_before)
            value = await self._unless_lost(
                self.transport.call(method, arguments, deadline.longest_s), deadline
            )
            self.signs.carried()
            self.signs.heard()
            sample = sample_of(value, payload.up_bytes, sent_unix_s, self._clock_offset_s)
            alone: Sample | None = None
            if sample is not None:
                now_unix_s = time.time()
                alone = self._traffic.end(token, sample, now_unix_s)
                self.estimate = learn(self.estimate, alone, now_unix_s)
        finally:
            self.in_flight -= 1
            self._traffic.abandon(token)
        self._call_count += 1
        down_bytes = sample.payload.down_bytes if sample else 0
        self._carried = Payload(
            self._carried.up_bytes + payload.up_bytes, self._carried.down_bytes + down_bytes
        )
        if generation == self.generation:
            self._needs_trial = False
        if method != "probe":
            self._failures_in_a_row = 0
        return value, sample, alone

    async def _unless_lost(self, call: Any, deadline: Deadline) -> Any:
        lost = self._lost
        if lost is None:
            call.close()
            raise TransportFailed(f"{self.name}: the connection is closed")
        calling = asyncio.ensure_future(call)
        start_s = self._clock()
        either: set[asyncio.Future[Any]] = {calling, lost}
        try:
            with self.signs.moving(deadline):
                while (left_s := deadline.at_s - self._clock()) > 0:
                    await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    if calling.done():
                        return calling.result()
                    if lost.done():
                        raise lost.result()
            waited_s = self._clock() - start_s
            raise TransportFailed(
                f"{self.name}: no answer in {waited_s:.1f} s", name="TimeoutError"
            )
        finally:
            await end_all([calling])

    async def probe(self, payload: Payload) -> None:
        """Measure with bytes of a call's size; a PING also compares the clocks."""
        arguments = {
            "payload": random.randbytes(payload.up_bytes),
            "reply_bytes": payload.down_bytes,
        }
        sent_unix_s = time.time()
        value, sample, _ = await self.call(
            "probe", arguments, payload, self._policy.probe_timeout_s
        )
        if sample is None:
            raise TransportFailed("the answer to a probe holds no times")
        if payload == PING:
            self._clock_offset_s = clock_offset_s(value, sent_unix_s)
            return
        self._record(
            "probe",
            bytes_up=payload.up_bytes,
            bytes_down=payload.down_bytes,
            seconds=sample.send_s + sample.receive_s,
        )

    def patience_s(self) -> float:
        """Return how long it may be silent with what it carries now, if another way is not.

        Bytes on the relay's far side move unseen, so what is under way gets several times the
        seconds predicted for it.
        """
        if self._traffic.payload == PING:
            return self._policy.silence_s
        predicted_s = predict_s(self.estimate, self._traffic.payload)
        if predicted_s is None:
            return self._policy.silence_unmeasured_s
        return max(self._policy.silence_s, self._policy.silence_factor * predicted_s)

    def beat(self) -> None:
        """Ask the far side for a sign of life, unless it is being asked; its failure is a loss."""
        if self.is_open and self._beating is None:
            self.signs.asked()
            self._beating = asyncio.ensure_future(self._beat(self.generation))

    async def _beat(self, generation: int) -> None:
        sent_s = self._clock()
        error: CourierError | None = None
        try:
            answer = await self._ask(self._policy.silence_alone_s)
        except CourierError as caught:
            error = caught
        finally:
            self._beating = None
        if generation != self.generation:
            return
        if error is not None and error.ends_the_way:
            self.lose(error)
            return
        # Any other answer, even a refusal, comes from the far side.
        self.signs.answered()
        if error is None:
            round_trip = Sample(PING, self._clock() - sent_s, 0.0)
            self.estimate = learn(self.estimate, round_trip, time.time())
            self.signs.note(answer)

    async def _ask(self, timeout_s: float) -> Any:
        return await self.transport.call("probe", {"payload": b"", "reply_bytes": 0}, timeout_s)

    async def has_room(self) -> bool:
        """Ask whether the service takes one more image; True where only an image would tell."""
        try:
            answer = await self._ask(self._policy.open_timeout_for(self.name))
        except CourierError as error:
            return error.kind != "overload"
        self.signs.heard()
        self.signs.note(answer)
        places_left = answer.get("places_left") if isinstance(answer, dict) else None
        return not isinstance(places_left, int) or places_left > 0

    def lose(self, error: CourierError) -> None:
        """End every call under way with ``error``; an idle transport is left at once."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(error)
        if self.in_flight == 0:
            self.leave(error, self.generation)

    def leave(self, error: CourierError, generation: int) -> None:
        """Close a failed way and let it rest, unless it was opened anew since it failed."""
        if generation != self.generation:
            return
        # A second failure of the same opening must not close what is opened next.
        self.generation += 1
        defect = find_defect(Failure.of(error), self.name, "small" if self.is_open else "open")
        self._last_defect = "" if defect is OTHER else f"{defect.name}, "
        self.is_open = False
        self._lost = None
        self.last_failure = str(error)
        self.says_gone = isinstance(error, ServiceGone)
        rest_s = self._policy.rest_s(self._failures_in_a_row)
        self._failures_in_a_row += 1
        self._needs_trial = True
        self._rests_until_s = self._clock() + rest_s
        self._record("left", kind=error.kind, error=str(error), rest_s=rest_s)
        closing = asyncio.ensure_future(self._close_transport())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def closed(self) -> None:
        """Wait until what was left is closed."""
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """Close the transport for good."""
        if self.is_open:
            self.record_health()
        self.is_open = False
        await self._close_transport()
        await self.closed()

    async def _close_transport(self) -> None:
        if self._beating is not None:
            await end_all([self._beating])
        await self.transport.close()

    def record_health(self) -> None:
        """Write to the journal how the transport is and what it has carried."""
        self._record(
            "health",
            state=self.transport.state(),
            heard_s=self.signs.heard_ago_s(),
            round_trip_s=self.estimate.round_trip_s if self.estimate.round_trips_s else None,
            up_bytes_per_s=self.estimate.up_bytes_per_s,
            down_bytes_per_s=self.estimate.down_bytes_per_s,
            bytes_up=self._carried.up_bytes,
            bytes_down=self._carried.down_bytes,
            calls=self._call_count,
            in_flight=self.in_flight,
            reconnects=max(self._opening_count - 1, 0),
        )

    def _record(self, event: str, **details: Any) -> None:
        self._journal.record(event, transport=self.name, replica=self._replica, **details)
