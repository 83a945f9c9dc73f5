"""Watching the transports of one service: which of them is lost, and how each one is.

A transport is lost when neither bytes nor signs of life move, never because the service is slow:
a service that thinks without answering is silent over every transport alike. So a silent one
counts as lost only while the service is heard over another, or is said to be gone by its server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import CourierError, TransportFailed
from .link import Link
from .retry import Policy

#: How often the journal tells how each transport is, and idle ones are asked for a sign of life.
HEALTH_S = 10.0

#: Share of ``Policy.heartbeat_s`` between two looks.
_LOOK_SHARE = 0.5


def loss(silence_s: float, patience_s: float, witness: str | None, alone_s: float) -> str | None:
    """Return why a transport silent for ``silence_s`` is lost, None while it is not.

    ``witness`` says what is known during that silence of the service over another transport.
    """
    if silence_s >= alone_s:
        return f"silent for {silence_s:.0f} s"
    if witness is not None and silence_s >= patience_s:
        return f"silent for {silence_s:.1f} s, while the service is {witness}"
    return None


class Watchdog:
    """Looks after the links of one service until cancelled."""

    def __init__(self, links: Sequence[Link], policy: Policy, clock: Callable[[], float]) -> None:
        self._links = links
        self._policy = policy
        self._clock = clock
        self._witnesses: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look, ask for signs of life, and end the calls of a transport that is lost."""
        pause_s = _LOOK_SHARE * self._policy.heartbeat_s
        try:
            await self._look_on(pause_s)
        finally:
            for task in self._witnesses:
                task.cancel()
            await asyncio.gather(*self._witnesses, return_exceptions=True)

    async def _look_on(self, pause_s: float) -> None:
        looked_s = told_s = self._clock()
        while True:
            await asyncio.sleep(pause_s)
            now_s = self._clock()
            # A process that was stopped or starved did not listen: that silence is its own.
            late_s = now_s - looked_s - pause_s
            looked_s = now_s
            if late_s > pause_s:
                for link in self._links:
                    link.signs.forgive(late_s)
            self._look()
            if now_s - told_s >= HEALTH_S:
                told_s = now_s
                self._tell()

    def _look(self) -> None:
        heartbeat_s = self._policy.heartbeat_s
        for link in self._links:
            if link.is_open:
                link.signs.look()
        busy = [link for link in self._links if link.is_open and link.in_flight]
        for link in busy:
            if link.signs.is_count_due():
                link.beat()
        quiet = [link for link in busy if link.signs.heard_ago_s() >= heartbeat_s]
        if not quiet:
            return
        is_due = any(link.signs.is_due() for link in quiet)
        for link in self._links:
            if link.is_open:
                # All at once, so that one that answers tells of one that does not.
                if is_due and link.signs.heard_ago_s() >= heartbeat_s:
                    link.beat()
            elif not link.is_resting and not self._witnesses:
                self._call_witness(link)
        for link in quiet:
            silence_s, alone_s = link.signs.silence_s(), self._policy.silence_alone_s
            reason = loss(silence_s, link.patience_s(), self._witness(link), alone_s)
            if reason is not None:
                link.lose(TransportFailed(f"{link.name}: {reason}", name="Silent"))

    def _witness(self, silent: Link) -> str | None:
        for link in self._links:
            if link is silent:
                continue
            # Heard a whole beat after the other fell silent.
            heard_s = silent.signs.silent_since_s() + self._policy.heartbeat_s
            if link.is_open and link.signs.last_heard_s >= heard_s:
                return f"heard over {link.name}"
            if link.says_gone:
                return f"gone, as {link.name} says"
        return None

    def _call_witness(self, link: Link) -> None:
        """Open a transport that nobody uses: that it opens shows that the service is there."""

        async def open_witness() -> None:
            generation = link.generation
            try:
                await link.open()
            except CourierError as error:
                link.leave(error, generation)

        task = asyncio.ensure_future(open_witness())
        self._witnesses.add(task)
        task.add_done_callback(self._witnesses.discard)

    def _tell(self) -> None:
        for link in self._links:
            if link.is_open:
                if not link.in_flight:
                    link.beat()
                link.record_health()
