"""The prober: it opens and measures the other transports while calls run, and probes them again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import CourierError
from .link import PING, Link
from .ranking import Candidate, promising, unproved
from .throughput import TRUST_HALF_LIFE_S, Payload, merge_probe, predict_s

#: A probe can only pay off while at least this many calls are left.
PROBE_MIN_CALLS_LEFT = 3

#: The cost of opening and probing a transport, in seconds of one core: HTTP's library is only
#: loaded then, and each end of a WebRTC handshake computes.
PROBE_COST_S = {"http": 0.3}
DEFAULT_PROBE_COST_S = 0.05

#: A probe pays off while the transfer of the remaining images takes this multiple of its cost.
WORTH_FACTOR = 20.0

#: A small probe shows whether a transport may be faster; only real images prove it.
SMALL_PROBE = Payload(64 << 10, 16 << 10)

#: The first probe is larger than a chunk of an unpatched hypha-rpc, so that the defects of larger
#: messages (D1, D3 of decision 2) are found and named before an image meets them.
FIRST_PROBE = Payload(256 << 10, 16 << 10)

#: No transport gets an image on trial before the one in use has this many samples.
TRIAL_MIN_SAMPLES = 2

#: Unused transports are probed again this often, with at most this share of the bytes of calls.
REPROBE_AFTER_S = 3.0
REPROBE_SHARE = 0.02

#: A closed transport is opened for a probe only after the trust in its measurement has halved.
REPROBE_CLOSED_AFTER_S = TRUST_HALF_LIFE_S

#: While the transports are still being compared, the first image waits at most this long...
FIRST_HOLD_S = 0.2
#: ...and the next ones start as soon as one is answered, or after this...
HOLD_S = 0.5
#: ...unless the transfer of an image takes less than this: then waiting gains nothing.
HOLD_MIN_TRAVEL_S = 0.2

_TICK_S = 1.0


class Prober:
    """Keeps the measurements of every transport current, in the background.

    Args:
        links: The transports of one replica.
        calls_left: Returns how many calls are still expected.
        in_use: Returns the transport in use, None before there is one.
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
        self._is_compared = len(links) == 1
        self._release = asyncio.Event()
        self._hold_lock = asyncio.Lock()
        self._started_s = 0.0
        self._answered_count = 0
        self._carried_bytes = 0
        self._reprobe_bytes = 0

    async def hold(self, payload: Payload) -> None:
        """Start calls one by one until the transports are compared.

        Otherwise a slow transport would carry several images before a fast one is open, and the
        handshake of the fast one would wait behind them. ``payload`` is that of the call; probes
        are no larger than the payload of the first call.
        """
        pause_s = HOLD_S
        if not self._first_payload.done():
            self._first_payload.set_result(payload)
            self._started_s = time.monotonic()
            pause_s = FIRST_HOLD_S
        self._note_speed()
        if self._is_compared:
            return
        async with self._hold_lock:
            if not self._is_compared:
                self._release.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._release.wait(), pause_s)

    def note_answer(self, payload: Payload) -> None:
        """Count the bytes of an answered call, and let the next call start."""
        self._answered_count += 1
        self._carried_bytes += payload.up_bytes + payload.down_bytes
        self._note_speed()
        self._release.set()

    def trial(self, payload: Payload) -> Link | None:
        """Return an idle transport that would be used if its measurements were fully trusted.

        The next image tests it: a probe of an image's size would only delay the images. The result
        is None while the transport in use has fewer than ``TRIAL_MIN_SAMPLES`` samples, because a
        busy machine makes a single probe slow. A transport that was abandoned because of such a
        probe is returned as well (:func:`.ranking.unproved`).
        """
        in_use = self._in_use()
        if in_use is None or in_use.estimate.sample_count < TRIAL_MIN_SAMPLES:
            return None
        names = self._promising(payload) + unproved(self._candidates(in_use), payload, in_use.name)
        idle = {link.name: link for link in self._links if link.is_open and not link.in_flight}
        return next((idle[name] for name in names if name in idle), None)

    async def run(self) -> None:
        """Open and probe the transports, then probe them regularly until cancelled."""
        preparing = [asyncio.ensure_future(self._prepare(link)) for link in self._links]
        try:
            for prepared in asyncio.as_completed(preparing):
                await prepared
                self._note_speed()
            self._end_hold()
            while True:
                await asyncio.sleep(_TICK_S)
                await self._reprobe_all()
        finally:
            for task in preparing:
                task.cancel()
            await asyncio.gather(*preparing, return_exceptions=True)

    async def _prepare(self, link: Link) -> None:
        if link is self._in_use():
            if len(self._links) > 1 and not link.is_measured:
                await _measure(link, SMALL_PROBE)
        elif link.is_measured or link.name in PROBE_COST_S:
            # A transport that another job of this host has measured is opened later
            # (`_open_standby`); an expensive one waits until it is known whether a probe pays off.
            return
        elif await _measure(link, PING):
            payload = _limited(await self._first_payload, FIRST_PROBE)
            if link.is_open and self._is_worth_probing(link):
                await _measure(link, payload)

    def _note_speed(self) -> None:
        """End the hold when transfers are fast or a faster transport is known."""
        if self._is_compared or not self._first_payload.done():
            return
        travel_s = self._travel_s()
        is_fast = travel_s is not None and travel_s < HOLD_MIN_TRAVEL_S
        if is_fast or self._promising(self._first_payload.result()):
            self._end_hold()

    def _end_hold(self) -> None:
        self._is_compared = True
        self._release.set()

    def _promising(self, payload: Payload) -> list[str]:
        in_use = self._in_use()
        if in_use is None:
            return []
        return promising(self._candidates(in_use), payload, in_use.name, time.time())

    def _candidates(self, in_use: Link) -> list[Candidate]:
        return [link.candidate(in_use.name) for link in self._links]

    async def _reprobe_all(self) -> None:
        if not self._first_payload.done():
            return
        payload = _limited(self._first_payload.result(), SMALL_PROBE)
        for link in self._links:
            await self._open_standby(link)
            if not self._is_worth_probing(link):
                continue
            if link.is_trial_due or not (link.is_open or link.needs_trial or link.is_measured):
                await self._reprobe(link, payload)
            if link is self._in_use() or (link.needs_trial and not link.is_open):
                continue
            age_s = time.time() - link.estimate.measured_unix_s
            reprobe_bytes = self._reprobe_bytes + payload.up_bytes + payload.down_bytes
            affordable = reprobe_bytes <= REPROBE_SHARE * self._carried_bytes
            if (
                age_s >= (REPROBE_AFTER_S if link.is_open else REPROBE_CLOSED_AFTER_S)
                and affordable
            ):
                self._reprobe_bytes = reprobe_bytes
                await self._reprobe(link, payload)

    async def _open_standby(self, link: Link) -> None:
        """Open a transport that needs no probe, as a replacement if the one in use is lost."""
        is_needed = link is not self._in_use() and not link.is_open and not link.needs_trial
        if (
            is_needed
            and link.name not in PROBE_COST_S
            and self._calls_outlast(DEFAULT_PROBE_COST_S)
        ):
            await _measure(link, PING)

    async def _reprobe(self, link: Link, payload: Payload) -> None:
        before = link.estimate
        if await _measure(link, payload) and link.estimate.up:
            link.estimate = merge_probe(before, link.estimate)

    def _is_worth_probing(self, link: Link) -> bool:
        """Tell whether the remaining transfers take long enough to be worth a probe."""
        if self._calls_left() < PROBE_MIN_CALLS_LEFT:
            return False
        travel_s = self._travel_s()
        if travel_s is None:
            return True
        cost_s = PROBE_COST_S.get(link.name, DEFAULT_PROBE_COST_S)
        return self._calls_left() * travel_s >= WORTH_FACTOR * cost_s

    def _calls_outlast(self, cost_s: float) -> bool:
        """Tell whether the remaining calls, at the pace so far, take far longer than ``cost_s``."""
        calls_left = self._calls_left()
        if calls_left < PROBE_MIN_CALLS_LEFT:
            return False
        each_s = (time.monotonic() - self._started_s) / max(self._answered_count, 1)
        return calls_left * each_s >= WORTH_FACTOR * cost_s

    def _travel_s(self) -> float | None:
        """Return the transfer seconds of an image over the transport in use, None while unknown.

        It is unknown also while that transport has failed: then any other is worth a probe.
        """
        in_use = self._in_use()
        if in_use is None or in_use.needs_trial or not self._first_payload.done():
            return None
        return predict_s(in_use.estimate, self._first_payload.result())


def _limited(payload: Payload, limit: Payload) -> Payload:
    return Payload(min(payload.up_bytes, limit.up_bytes), min(payload.down_bytes, limit.down_bytes))


async def _measure(link: Link, payload: Payload) -> bool:
    """Open and probe a transport; return False and start its backoff when that fails."""
    generation = link.generation
    try:
        await link.open()
        generation = link.generation
        await link.probe(payload)
    except CourierError as error:
        link.back_off(error, generation)
        return False
    return True
