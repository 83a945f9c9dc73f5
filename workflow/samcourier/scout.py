"""Measuring beside the calls: the other transports come up, and losers are looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .choose import Payload
from .errors import CourierError
from .link import PING, Link

#: A probe costs bytes: with fewer calls left than this it cannot pay for itself.
PROBE_MIN_CALLS_LEFT = 3

#: Many chunks of every transport, so it tells the rate, at a bounded cost.
PROBE_MAX_BYTES = 1 << 20

#: Losers are looked at again this often, and for no more than this share of the bytes carried.
LOOK_AGAIN_S = 30.0
PROBE_SHARE = 0.02


class Scout:
    """Keeps every transport measured without hurrying a call."""

    def __init__(self, links: Sequence[Link], expected_calls: int) -> None:
        self._links = links
        self._calls_left = expected_calls
        self._first_payload: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()
        self._carried_bytes = 0
        self._probed_bytes = 0

    def note_call(self, payload: Payload) -> None:
        """Learn what a real call carried: probes are cut to its size."""
        self._carried_bytes += payload.up_bytes + payload.down_bytes
        if not self._first_payload.done():
            self._first_payload.set_result(payload)

    def note_end(self) -> None:
        """Count a call that has ended, however it did."""
        self._calls_left -= 1

    async def run(self) -> None:
        """Bring every transport up, measure it, and go on looking until cancelled."""
        for link in self._links:
            # What another job of this host measured lately needs no second look now.
            if link.estimate is None:
                await _measure(link, PING)
        first = await self._first_payload
        payload = Payload(
            min(first.up_bytes, PROBE_MAX_BYTES), min(first.down_bytes, PROBE_MAX_BYTES)
        )
        for link in self._links:
            measured = link.estimate is not None and link.estimate.up_bytes_per_s is not None
            if link.is_open and not measured:
                await self._probe(link, payload)
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            for link in self._links:
                cost = payload.up_bytes + payload.down_bytes
                if self._probed_bytes + cost <= PROBE_SHARE * self._carried_bytes:
                    await self._probe(link, payload)

    async def _probe(self, link: Link, payload: Payload) -> None:
        if self._calls_left < PROBE_MIN_CALLS_LEFT:
            return
        self._probed_bytes += payload.up_bytes + payload.down_bytes
        await _measure(link, payload)


async def _measure(link: Link, payload: Payload) -> None:
    """Open and probe a transport; when it fails it rests: one way less, nothing more."""
    generation = link.generation
    try:
        await link.open()
        generation = link.generation
        await link.probe(payload)
    except CourierError as error:
        link.leave(error, generation)
