"""One transport of a replica: whether it is open or failed, and its measurements."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from ..concurrency import cancel_all
from ..errors import CourierError, ServiceGone, TransportFailed
from ..failure import Failure
from ..results.connection_log import ConnectionJournal
from ..results.service_description import ServiceDescription
from ..transports.base import Transport
from ..transports.known_defects import OTHER, find_defect
from .deadline import Deadline
from .description import RunIdentity, describe
from .flow import ServiceLoad
from .liveness import Liveness
from .ranking import Candidate
from .throughput import Estimate, Payload, Sample, learn, predict_s
from .time_limits import Policy
from .timing import Traffic, clock_offset_s, sample_of

#: An empty payload: it measures the round trip alone.
PING = Payload(0, 0)


class Link:
    """Opens a transport when needed, calls over it, measures it, and backs off after a failure.

    ``generation`` counts the openings: a failure of an earlier one must not close a later one.

    Args:
        transport: The transport, not open.
        journal: Gets an event for each opening, probe and failure.
        policy: All time limits.
        clock: Returns monotonic seconds.
        replica: The name of the replica for the journal, None for a service without names.
        identity: The identity that the service must have.
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
        #: The service's description at the last opening; empty if it has no ``describe``.
        self.description = ServiceDescription()
        self.is_open = False
        self.generation = 0
        self.last_failure: str | None = None
        self._last_defect = ""
        #: Whether the server reported that the service is not available.
        self.is_service_absent = False
        self.in_flight = 0
        self.liveness = Liveness(transport, policy, clock)
        self._journal = journal
        self._policy = policy
        self._clock = clock
        self._replica = replica
        self._identity = identity or RunIdentity()
        self._backoff_until_s = 0.0
        self._failures_in_a_row = 0
        self._needs_trial = False
        self._opening_count = 0
        self._clock_offset_s = 0.0
        self._traffic = Traffic()
        self._call_count = 0
        self._carried = PING
        #: What the service last reported over this transport.
        self._service_load = ServiceLoad()
        self._lost: asyncio.Future[CourierError] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_measured(self) -> bool:
        """Whether a rate is known, not only the round trip."""
        return bool(self.estimate.up or self.estimate.down)

    @property
    def is_trial_due(self) -> bool:
        """Whether it failed, its backoff is over, and a probe must precede the next image."""
        return self._needs_trial and self._backoff_until_s <= self._clock()

    @property
    def needs_trial(self) -> bool:
        """Whether it failed and has not carried a call since."""
        return self._needs_trial

    def candidate(self, current: str | None, refused: str | None = None) -> Candidate:
        """Return the input for :func:`samcourier.connection.ranking.rank`.

        ``current`` names the transport in use; ``refused`` says why this one is excluded, if so.
        """
        blocked = refused
        if blocked is None and (self._needs_trial or self._backoff_until_s > self._clock()):
            blocked = f"failed: {self._last_defect}{self.last_failure}"
        elif blocked is None and not self.is_open and not self.is_measured and self.name != current:
            blocked = "not open yet"
        return Candidate(self.name, self.estimate, blocked)

    async def open(self) -> None:
        """Open the transport unless it is open, and check that the service is still the same.

        Raises the failures of the transport, and ServiceGone when another service answers.
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
            self.is_open, self.is_service_absent = True, False
            self.generation += 1
            self._opening_count += 1
            self.liveness.note_opened()
            self._lost = asyncio.get_running_loop().create_future()
            self._record("open", seconds=self._clock() - start_s, state=self.transport.state())

    async def call(
        self,
        method: str,
        arguments: dict[str, Any],
        payload: Payload,
        timeout_s: float,
        max_images_ahead: int = 0,
    ) -> tuple[Any, Sample | None, Sample | None]:
        """Call over the open transport and measure the call.

        Args:
            method: The service's method.
            arguments: Its keyword arguments.
            payload: The bytes of the request, and those expected of the answer.
            timeout_s: Seconds until the deadline; it is extended by as much with each of the next
                ``max_images_ahead`` images that the service finishes.
            max_images_ahead: How many images may be ahead of this one in the service's queue.

        Returns:
            The answer, its sample, and the sample computed as if no other call had shared the
            transport; both samples are None when the answer has no times.

        Raises the failures of the transport, and TransportFailed as soon as it counts as lost.
        """
        generation = self.generation
        sent_unix_s = time.time()
        token = self._traffic.begin(payload, sent_unix_s)
        self.in_flight += 1
        self.liveness.note_payload()
        try:
            deadline = Deadline(self._clock(), timeout_s, max_images_ahead)
            value = await self._call_unless_lost(
                self.transport.call(method, arguments, deadline.longest_s), deadline
            )
            self.liveness.note_payload()
            self.liveness.note_heard()
            self._note_service_load(value)
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

    async def _call_unless_lost(self, call: Any, deadline: Deadline) -> Any:
        lost = self._lost
        if lost is None:
            call.close()
            raise TransportFailed(f"{self.name}: the connection is closed")
        calling = asyncio.ensure_future(call)
        start_s = self._clock()
        either: set[asyncio.Future[Any]] = {calling, lost}
        try:
            with self.liveness.extending(deadline):
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
            await cancel_all([calling])

    async def probe(self, payload: Payload) -> None:
        """Measure the transport with random bytes; a PING measures the clock offset instead."""
        arguments = {
            "payload": random.randbytes(payload.up_bytes),
            "reply_bytes": payload.down_bytes,
        }
        sent_unix_s = time.time()
        value, sample, _ = await self.call(
            "probe", arguments, payload, self._policy.probe_timeout_s
        )
        if sample is None:
            raise TransportFailed("the service's answer to a probe contains no times")
        if payload == PING:
            self._clock_offset_s = clock_offset_s(value, sent_unix_s)
            return
        self._record(
            "probe",
            bytes_up=payload.up_bytes,
            bytes_down=payload.down_bytes,
            seconds=sample.send_s + sample.receive_s,
        )

    def silence_limit_s(self) -> float:
        """Return the seconds it may be silent while the service is heard over another transport.

        Bytes beyond the relay move unseen, so the limit is a multiple of the seconds predicted for
        the calls in flight.
        """
        if self._traffic.payload == PING:
            return self._policy.silence_s
        predicted_s = predict_s(self.estimate, self._traffic.payload)
        if predicted_s is None:
            return self._policy.silence_unmeasured_s
        return max(self._policy.silence_s, self._policy.silence_factor * predicted_s)

    def send_heartbeat(self) -> None:
        """Send a heartbeat unless one is in flight; the transport is lost when it fails."""
        if self.is_open and self._heartbeat is None:
            self.liveness.note_heartbeat_sent()
            self._heartbeat = asyncio.ensure_future(self._send_heartbeat(self.generation))

    async def _send_heartbeat(self, generation: int) -> None:
        sent_s = self._clock()
        error: CourierError | None = None
        try:
            answer = await self._empty_probe(self._policy.silence_alone_s)
        except CourierError as caught:
            error = caught
        finally:
            self._heartbeat = None
        if generation != self.generation:
            return
        if error is not None and error.must_leave_transport:
            self.fail_calls(error)
            return
        # Any other answer, even a refusal, comes from the far side.
        self.liveness.note_heartbeat_answered()
        if error is None:
            round_trip = Sample(PING, self._clock() - sent_s, 0.0)
            self.estimate = learn(self.estimate, round_trip, time.time())
            self.liveness.note_probe_answer(answer)
            self._note_service_load(answer)

    def _note_service_load(self, answer: Any) -> None:
        load = ServiceLoad.of(answer)
        if load.depth is not None:
            self._service_load = load

    async def _empty_probe(self, timeout_s: float) -> Any:
        return await self.transport.call("probe", {"payload": b"", "reply_bytes": 0}, timeout_s)

    async def has_queue_space(self) -> bool:
        """Ask with an empty probe whether the service's queue has space for one more image.

        The answer is True when the probe fails otherwise or the service does not report its space.
        """
        try:
            answer = await self._empty_probe(self._policy.open_timeout_for(self.name))
        except CourierError as error:
            return error.kind != "overload"
        self.liveness.note_heard()
        self.liveness.note_probe_answer(answer)
        space_left = answer.get("places_left") if isinstance(answer, dict) else None
        return not isinstance(space_left, int) or space_left > 0

    def fail_calls(self, error: CourierError) -> None:
        """Fail every call in flight with ``error``; an idle transport is closed at once."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(error)
        if self.in_flight == 0:
            self.back_off(error, self.generation)

    def back_off(self, error: CourierError, generation: int) -> None:
        """Close a failed transport and start its backoff, unless it was reopened since it failed.

        ``generation`` is that of the opening which failed with ``error``.
        """
        if generation != self.generation:
            return
        # A second failure of the same opening must not close what is opened next.
        self.generation += 1
        defect = find_defect(Failure.of(error), self.name, "small" if self.is_open else "open")
        self._last_defect = "" if defect is OTHER else f"{defect.name}, "
        self.is_open = False
        self._lost = None
        self.last_failure = str(error)
        self.is_service_absent = isinstance(error, ServiceGone)
        backoff_s = self._policy.backoff_s(self._failures_in_a_row)
        self._failures_in_a_row += 1
        self._needs_trial = True
        self._backoff_until_s = self._clock() + backoff_s
        self._record("left", kind=error.kind, error=str(error), rest_s=backoff_s)
        closing = asyncio.ensure_future(self._close_transport())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def wait_until_closed(self) -> None:
        """Wait until every failed opening is closed."""
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """Close the transport finally."""
        if self.is_open:
            self.record_health()
        self.is_open = False
        await self._close_transport()
        await self.wait_until_closed()

    async def _close_transport(self) -> None:
        if self._heartbeat is not None:
            await cancel_all([self._heartbeat])
        await self.transport.close()

    def record_health(self) -> None:
        """Write the state of the transport and its measurements to the journal."""
        self._record(
            "health",
            state=self.transport.state(),
            heard_s=self.liveness.heard_ago_s(),
            round_trip_s=self.estimate.round_trip_s if self.estimate.round_trips_s else None,
            up_bytes_per_s=self.estimate.up_bytes_per_s,
            down_bytes_per_s=self.estimate.down_bytes_per_s,
            bytes_up=self._carried.up_bytes,
            bytes_down=self._carried.down_bytes,
            calls=self._call_count,
            in_flight=self.in_flight,
            reconnects=max(self._opening_count - 1, 0),
            pipeline_depth=self._service_load.depth,
            device_busy=self._service_load.device_busy,
            images_per_s=self._service_load.images_per_s,
        )

    def _record(self, event: str, **details: Any) -> None:
        self._journal.record(event, transport=self.name, replica=self._replica, **details)
