"""Measuring beside the calls: the other transports come up, and losers are looked at again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import CourierError
from .link import PING, Link
from .ranking import Candidate, promising, unproved
from .throughput import TRUST_HALF_LIFE_S, Payload, predict_s, renewed

#: A look can only pay for itself while this many calls are left to profit from it.
PROBE_MIN_CALLS_LEFT = 3

#: What opening a transport and looking at it costs, in seconds of one core: HTTP's library is
#: only loaded then, and each end of a WebRTC handshake computes.
LOOK_COST_S = {"http": 0.3}
OTHER_LOOK_COST_S = 0.05

#: A look pays while the images left will travel for so many times what it costs.
WORTH_FACTOR = 20.0

#: A look tells whether a transport may be worth it; only real images prove it.
LOOK = Payload(64 << 10, 16 << 10)

#: The first look at one is more than a chunk of an unmended hypha-rpc, so that what fails from
#: there on (D1, D3 of decision 2) is known by its name before an image tries.
FIRST_LOOK = Payload(256 << 10, 16 << 10)

#: Nothing goes on trial before the transport in use was measured so often.
TRIAL_MIN_SAMPLES = 2

#: Losers are looked at again this often, for no more than this share of the bytes carried.
LOOK_AGAIN_S = 3.0
LOOK_AGAIN_SHARE = 0.02

#: One that is not open is opened for it only once its measurement is worth half.
OPEN_TO_LOOK_S = TRUST_HALF_LIFE_S

#: While the transports are still being compared, the first image waits so long at most...
FIRST_HOLD_S = 0.2
#: ...and the next ones set out as soon as one is answered, or after this...
HOLD_S = 0.5
#: ...unless an image takes less than this: then nothing is gained by waiting.
HOLD_MIN_TRAVEL_S = 0.2

_TICK_S = 1.0


class Prober:
    """Keeps every transport measured without hurrying a call.

    ``calls_left`` tells how many calls are expected still, ``in_use`` the transport in use, None
    before there is one.
    """

    def __init__(
        self,
        links: Sequence[Link],
        calls_left: Callable[[], int],
        in_use: Callable[[], Link | None],
    ) -> None:
        self._links = links
        self._calls_left = calls_left
        self._in_use = in_use
        self._first_payload: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()
        self._compared = len(links) == 1
        self._may_go = asyncio.Event()
        self._one_by_one = asyncio.Lock()
        self._begun_s = 0.0
        self._answered_count = 0
        self._carried_bytes = 0
        self._looked_bytes = 0

    async def hold(self, payload: Payload) -> None:
        """Let calls set out one by one until the transports are compared.

        A slow way would otherwise carry several images before a fast one is open, and its
        handshake would wait behind them. ``payload`` is of the call; looks are cut to the first's.
        """
        pause_s = HOLD_S
        if not self._first_payload.done():
            self._first_payload.set_result(payload)
            self._begun_s = time.monotonic()
            pause_s = FIRST_HOLD_S
        self._note_speed()
        if self._compared:
            return
        async with self._one_by_one:
            if not self._compared:
                self._may_go.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._may_go.wait(), pause_s)

    def note_answer(self, payload: Payload) -> None:
        """Count what an answered call carried; the next may go."""
        self._answered_count += 1
        self._carried_bytes += payload.up_bytes + payload.down_bytes
        self._note_speed()
        self._may_go.set()

    def trial(self, payload: Payload) -> Link | None:
        """Return an idle transport that would be taken, were it only trusted in full.

        The next image proves it: bytes made for that alone would only hold the others up. Not on
        the word of one look at the transport in use, which a busy machine makes look slow; and one
        that was left for such a look gets an image as well (:func:`.choose.unproved`).
        """
        in_use = self._in_use()
        if in_use is None or in_use.estimate.sample_count < TRIAL_MIN_SAMPLES:
            return None
        names = self._promising(payload) + unproved(self._candidates(in_use), payload, in_use.name)
        idle = {link.name: link for link in self._links if link.is_open and not link.in_flight}
        return next((idle[name] for name in names if name in idle), None)

    async def run(self) -> None:
        """Bring the transports up, look at them, and go on looking until cancelled."""
        bringing_up = [asyncio.ensure_future(self._bring_up(link)) for link in self._links]
        try:
            for brought in asyncio.as_completed(bringing_up):
                await brought
                self._note_speed()
            self._end_hold()
            while True:
                await asyncio.sleep(_TICK_S)
                await self._look_again()
        finally:
            for task in bringing_up:
                task.cancel()
            await asyncio.gather(*bringing_up, return_exceptions=True)

    async def _bring_up(self, link: Link) -> None:
        if link is self._in_use():
            if len(self._links) > 1 and not link.is_measured:
                await _measure(link, LOOK)
        elif link.is_measured or link.name in LOOK_COST_S:
            # What another job of this host measured lately needs no second look now, and is opened
            # later (`_stand_by`); what is dear waits until it is known whether it pays.
            return
        elif await _measure(link, PING):
            payload = _cut(await self._first_payload, FIRST_LOOK)
            if link.is_open and self._pays(link):
                await _measure(link, payload)

    def _note_speed(self) -> None:
        """End the hold where it gains nothing: images travel fast, or a faster way is known."""
        if self._compared or not self._first_payload.done():
            return
        travel_s = self._travel_s()
        is_fast = travel_s is not None and travel_s < HOLD_MIN_TRAVEL_S
        if is_fast or self._promising(self._first_payload.result()):
            self._end_hold()

    def _end_hold(self) -> None:
        self._compared = True
        self._may_go.set()

    def _promising(self, payload: Payload) -> list[str]:
        in_use = self._in_use()
        if in_use is None:
            return []
        return promising(self._candidates(in_use), payload, in_use.name, time.time())

    def _candidates(self, in_use: Link) -> list[Candidate]:
        return [link.candidate(in_use.name) for link in self._links]

    async def _look_again(self) -> None:
        if not self._first_payload.done():
            return
        payload = _cut(self._first_payload.result(), LOOK)
        for link in self._links:
            await self._stand_by(link)
            if not self._pays(link):
                continue
            if link.wants_trial or not (link.is_open or link.is_resting or link.is_measured):
                await self._look(link, payload)
            if link is self._in_use() or (link.is_resting and not link.is_open):
                continue
            age_s = time.time() - link.estimate.measured_unix_s
            looked_bytes = self._looked_bytes + payload.up_bytes + payload.down_bytes
            affordable = looked_bytes <= LOOK_AGAIN_SHARE * self._carried_bytes
            if age_s >= (LOOK_AGAIN_S if link.is_open else OPEN_TO_LOOK_S) and affordable:
                self._looked_bytes = looked_bytes
                await self._look(link, payload)

    async def _stand_by(self, link: Link) -> None:
        """Open a transport that need not be looked at, should the one in use be lost."""
        is_needed = link is not self._in_use() and not link.is_open and not link.is_resting
        if is_needed and link.name not in LOOK_COST_S and self._lasts(OTHER_LOOK_COST_S):
            await _measure(link, PING)

    async def _look(self, link: Link, payload: Payload) -> None:
        before = link.estimate
        if await _measure(link, payload) and link.estimate.up:
            link.estimate = renewed(before, link.estimate)

    def _pays(self, link: Link) -> bool:
        """Tell whether what is left to travel is worth a look at another transport."""
        if self._calls_left() < PROBE_MIN_CALLS_LEFT:
            return False
        travel_s = self._travel_s()
        if travel_s is None:
            return True
        cost_s = LOOK_COST_S.get(link.name, OTHER_LOOK_COST_S)
        return self._calls_left() * travel_s >= WORTH_FACTOR * cost_s

    def _lasts(self, cost_s: float) -> bool:
        """Tell whether what is left, going on as so far, takes so much longer than it costs."""
        calls_left = self._calls_left()
        if calls_left < PROBE_MIN_CALLS_LEFT:
            return False
        each_s = (time.monotonic() - self._begun_s) / max(self._answered_count, 1)
        return calls_left * each_s >= WORTH_FACTOR * cost_s

    def _travel_s(self) -> float | None:
        """Return how long an image travels over the transport in use, None while unknown.

        Unknown also while that transport rests: any other would be worth a look.
        """
        in_use = self._in_use()
        if in_use is None or in_use.is_resting or not self._first_payload.done():
            return None
        return predict_s(in_use.estimate, self._first_payload.result())


def _cut(payload: Payload, most: Payload) -> Payload:
    return Payload(min(payload.up_bytes, most.up_bytes), min(payload.down_bytes, most.down_bytes))


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
