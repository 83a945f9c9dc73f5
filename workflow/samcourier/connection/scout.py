"""Measuring beside the calls: the other transports come up, and losers are looked at again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import CourierError
from .choose import SWITCH_SAMPLES, promising
from .estimate import Payload, renewed, trust
from .link import PING, Link

#: A probe costs bytes: with fewer calls left than this it cannot pay for itself.
PROBE_MIN_CALLS_LEFT = 3

#: A look tells whether a transport may be worth it; only then is it proved with real sizes.
LOOK_MAX_BYTES = 256 << 10
PROOF_MAX_BYTES = 4 << 20

#: A proof is renewed when the trust in it has fallen below this.
TRUSTED = 0.5

#: Losers are looked at again this often, for no more than this share of the bytes carried.
LOOK_AGAIN_S = 3.0
LOOK_AGAIN_MAX_BYTES = 64 << 10
LOOK_AGAIN_SHARE = 0.02

#: While the transports are still being compared, one image more sets out after each such pause.
HOLD_S = 0.5

_TICK_S = 1.0


class Scout:
    """Keeps every transport measured without hurrying a call.

    ``current`` tells the transport in use.
    """

    def __init__(
        self, links: Sequence[Link], expected_calls: int, current: Callable[[], str | None]
    ) -> None:
        self._links = links
        self._calls_left = expected_calls
        self._current = current
        self._first_payload: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()
        self._compared = asyncio.Event()
        self._one_by_one = asyncio.Lock()
        self._carried_bytes = 0
        self._looked_bytes = 0

    async def hold(self) -> None:
        """Let the first call go at once and the next ones one by one until there is a comparison.

        A slow way would otherwise carry several images before a fast one is open.
        """
        if not self._first_payload.done() or self._compared.is_set():
            return
        async with self._one_by_one:
            with suppress(TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    await self._compared.wait()

    def note_start(self, payload: Payload) -> None:
        """Learn what calls carry: probes are cut to its size."""
        if not self._first_payload.done():
            self._first_payload.set_result(payload)

    def note_answer(self, payload: Payload) -> None:
        """Count what an answered call carried; the first one ends the hold."""
        self._carried_bytes += payload.up_bytes + payload.down_bytes
        self._compared.set()

    def note_end(self) -> None:
        """Count a call that has ended, however it did."""
        self._calls_left -= 1

    async def run(self) -> None:
        """Bring every transport up, measure it, and go on looking until cancelled."""
        bringing_up = [asyncio.ensure_future(self._bring_up(link)) for link in self._links]
        try:
            for brought in asyncio.as_completed(bringing_up):
                await brought
                await self._prove()
            self._compared.set()
            while True:
                await asyncio.sleep(_TICK_S)
                await self._look_again()
        finally:
            for task in bringing_up:
                task.cancel()
            await asyncio.gather(*bringing_up, return_exceptions=True)

    async def _bring_up(self, link: Link) -> None:
        if link.is_measured and not link.is_open:
            # What another job of this host measured lately needs no second look now.
            return
        if link.estimate.round_trips_s or await _measure(link, PING):
            payload = _cut(await self._first_payload, LOOK_MAX_BYTES)
            if link.is_open and not link.is_measured and self._pays():
                await _measure(link, payload)

    async def _prove(self) -> None:
        """Measure what looks better than the transport in use with real sizes, if it pays."""
        current = self._current()
        if current is None or not self._first_payload.done():
            return
        whole = self._first_payload.result()
        for link in self._promising(whole, current):
            while link in self._promising(whole, current) and not _is_proved(link):
                if not self._pays() or not await _measure(link, _cut(whole, PROOF_MAX_BYTES)):
                    return
            if link in self._promising(whole, current):
                self._compared.set()

    def _promising(self, payload: Payload, current: str) -> list[Link]:
        by_name: dict[str, Link] = {link.name: link for link in self._links}
        candidates = [link.candidate(current) for link in self._links]
        return [by_name[name] for name in promising(candidates, payload, current, time.time())]

    async def _look_again(self) -> None:
        if not self._first_payload.done():
            return
        payload = _cut(self._first_payload.result(), LOOK_AGAIN_MAX_BYTES)
        for link in self._links:
            if link.wants_trial and self._pays():
                await self._look(link, payload)
            if link.name == self._current() or not link.is_open:
                continue
            age_s = time.time() - link.estimate.measured_unix_s
            looked_bytes = self._looked_bytes + payload.up_bytes + payload.down_bytes
            affordable = looked_bytes <= LOOK_AGAIN_SHARE * self._carried_bytes
            if age_s >= LOOK_AGAIN_S and affordable and self._pays():
                self._looked_bytes = looked_bytes
                await self._look(link, payload)

    async def _look(self, link: Link, payload: Payload) -> None:
        before = link.estimate
        if await _measure(link, payload) and link.estimate.up:
            link.estimate = renewed(before, link.estimate)
            await self._prove()

    def _pays(self) -> bool:
        return self._calls_left >= PROBE_MIN_CALLS_LEFT


def _is_proved(link: Link) -> bool:
    """Tell whether more samples would not make it more trusted, however old the others are."""
    fresh = trust(link.estimate, time.time()) > TRUSTED
    return link.estimate.sample_count >= SWITCH_SAMPLES and fresh


def _cut(payload: Payload, max_bytes: int) -> Payload:
    return Payload(min(payload.up_bytes, max_bytes), min(payload.down_bytes, max_bytes))


async def _measure(link: Link, payload: Payload) -> bool:
    """Open and probe a transport; when it fails it rests: one way less, nothing more."""
    generation = link.generation
    try:
        await link.open()
        generation = link.generation
        await link.probe(payload)
    except CourierError as error:
        link.leave(error, generation)
        return False
    return True
