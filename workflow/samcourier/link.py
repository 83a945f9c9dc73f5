"""One transport as the manager knows it: open or resting, and what was measured of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from .choose import Candidate, Estimate, Payload, Sample, learn
from .errors import CourierError, TransportFailed
from .journal import ConnectionJournal
from .measure import clock_offset_s, sample_of
from .retry import Policy
from .transports.base import Transport

#: The round trip is measured with next to nothing.
PING = Payload(0, 0)


class Link:
    """Opens a transport when needed, measures it, and lets it rest after a failure.

    ``generation`` counts the openings: a failure of an earlier one must not close a later one.
    """

    def __init__(
        self,
        transport: Transport,
        journal: ConnectionJournal,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self.transport = transport
        self.name = transport.name
        self.estimate: Estimate | None = None
        self.is_open = False
        self.generation = 0
        self.last_failure: str | None = None
        self._journal = journal
        self._policy = policy
        self._clock = clock
        self._rests_until_s = 0.0
        self._clock_offset_s = 0.0
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def candidate(self, tried: set[str], current: str | None) -> Candidate:
        """Return the transport as :func:`samcourier.choose.rank` wants to see it."""
        blocked = None
        if self.name in tried:
            blocked = "failed for this image"
        elif self._rests_until_s > self._clock():
            blocked = f"failed: {self.last_failure}"
        elif not self.is_open and self.estimate is None and self.name != current:
            blocked = "not open yet"
        return Candidate(self.name, self.estimate, blocked)

    async def open(self) -> None:
        """Open the transport once, whoever asks. Raises what the transport raises."""
        async with self._opening:
            if self.is_open:
                return
            start_s = self._clock()
            await self.transport.open(self._policy.open_timeout_for(self.name))
            self.is_open = True
            self.generation += 1
            self._journal.record("open", transport=self.name, seconds=self._clock() - start_s)

    async def probe(self, payload: Payload) -> None:
        """Measure with bytes of a call's size; a PING also compares the clocks."""
        arguments = {
            "payload": random.randbytes(payload.up_bytes),
            "reply_bytes": payload.down_bytes,
        }
        sent_unix_s = time.time()
        value = await self.transport.call("probe", arguments, self._policy.probe_timeout_s)
        if payload == PING:
            self._clock_offset_s = clock_offset_s(value, sent_unix_s)
        sample = self.learn(value, payload, sent_unix_s)
        if sample is None:
            raise TransportFailed("the answer to a probe holds no times")
        self._journal.record(
            "probe",
            transport=self.name,
            bytes_up=payload.up_bytes,
            bytes_down=payload.down_bytes,
            seconds=sample.send_s + sample.receive_s,
        )

    def learn(self, value: Any, payload: Payload, sent_unix_s: float) -> Sample | None:
        """Take an answered call as a measurement; None when it tells no times."""
        sample = sample_of(value, payload.up_bytes, sent_unix_s, self._clock_offset_s)
        if sample is not None:
            self.estimate = learn(self.estimate, sample)
        return sample

    def leave(self, error: CourierError, generation: int) -> None:
        """Close a failed way and let it rest, unless it was opened anew since it failed."""
        if generation != self.generation:
            return
        # A second failure of the same opening must not close what is opened next.
        self.generation += 1
        self.is_open = False
        self.last_failure = str(error)
        self._rests_until_s = self._clock() + self._policy.rest_after_failure_s
        self._journal.record(
            "left",
            transport=self.name,
            kind=error.kind,
            error=str(error),
            rest_s=self._policy.rest_after_failure_s,
        )
        closing = asyncio.ensure_future(self.transport.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def closed(self) -> None:
        """Wait until what was left is closed."""
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """Close the transport for good."""
        self.is_open = False
        await self.transport.close()
        await self.closed()
