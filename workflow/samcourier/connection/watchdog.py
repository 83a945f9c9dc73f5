"""The watchdog of one service's transports: it detects lost ones and records their health.

A transport is lost when neither bytes nor heartbeats move, never because the service is slow: a
service that computes without answering is silent over every transport alike. So a silent
transport counts as lost only while the service is heard over another one, or while the server
reports over another one that the service is not registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import CourierError, TransportFailed
from .link import Link
from .time_limits import Policy

#: How often the health of each transport is recorded, and a heartbeat sent over idle ones.
HEALTH_S = 10.0

#: Share of ``Policy.heartbeat_s`` between two checks.
_CHECK_SHARE = 0.5


def loss_reason(
    silence_s: float, silence_limit_s: float, evidence: str | None, alone_s: float
) -> str | None:
    """Return why a silent transport is lost, None while it is not.

    Args:
        silence_s: For how long the transport has been silent, in seconds.
        silence_limit_s: How long it may be silent when there is evidence from another transport.
        evidence: What another transport showed of the service during that silence.
        alone_s: How long it may be silent without any evidence.
    """
    if silence_s >= alone_s:
        return f"silent for {silence_s:.0f} s"
    if evidence is not None and silence_s >= silence_limit_s:
        return f"silent for {silence_s:.1f} s, while {evidence}"
    return None


class Watchdog:
    """Checks the links of one service until it is cancelled."""

    def __init__(self, links: Sequence[Link], policy: Policy, clock: Callable[[], float]) -> None:
        self._links = links
        self._policy = policy
        self._clock = clock
        self._openings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Check the links, send heartbeats, and end the calls of a transport that is lost."""
        pause_s = _CHECK_SHARE * self._policy.heartbeat_s
        try:
            await self._check_periodically(pause_s)
        finally:
            for task in self._openings:
                task.cancel()
            await asyncio.gather(*self._openings, return_exceptions=True)

    async def _check_periodically(self, pause_s: float) -> None:
        checked_s = recorded_s = self._clock()
        while True:
            await asyncio.sleep(pause_s)
            now_s = self._clock()
            # A process that was stopped or starved did not listen: that silence is its own.
            late_s = now_s - checked_s - pause_s
            checked_s = now_s
            if late_s > pause_s:
                for link in self._links:
                    link.liveness.exclude_silence(late_s)
            self._check()
            if now_s - recorded_s >= HEALTH_S:
                recorded_s = now_s
                self._record_health()

    def _check(self) -> None:
        heartbeat_s = self._policy.heartbeat_s
        for link in self._links:
            if link.is_open:
                link.liveness.check_bytes()
        busy = [link for link in self._links if link.is_open and link.in_flight]
        for link in busy:
            if link.liveness.is_progress_probe_due():
                link.send_heartbeat()
        quiet = [link for link in busy if link.liveness.heard_ago_s() >= heartbeat_s]
        if not quiet:
            return
        is_due = any(link.liveness.is_heartbeat_due() for link in quiet)
        for link in self._links:
            if link.is_open:
                # All at once: the answer of one transport is evidence about a silent one.
                if is_due and link.liveness.heard_ago_s() >= heartbeat_s:
                    link.send_heartbeat()
            elif not link.needs_trial and not self._openings:
                self._open_for_evidence(link)
        for link in quiet:
            silence_s, alone_s = link.liveness.silence_s(), self._policy.silence_alone_s
            evidence = self._evidence(link)
            reason = loss_reason(silence_s, link.silence_limit_s(), evidence, alone_s)
            if reason is not None:
                link.fail_calls(TransportFailed(f"{link.name}: {reason}", name="Silent"))

    def _evidence(self, silent: Link) -> str | None:
        for link in self._links:
            if link is silent:
                continue
            # Heard a whole heartbeat after the other one fell silent.
            heard_s = silent.liveness.silent_since_s() + self._policy.heartbeat_s
            if link.is_open and link.liveness.last_heard_s >= heard_s:
                return f"the service is heard over {link.name}"
            if link.is_service_absent:
                return f"{link.name} reports that the service is not available"
        return None

    def _open_for_evidence(self, link: Link) -> None:
        """Open a transport that nobody uses: success shows that the service is reachable."""

        async def open_link() -> None:
            generation = link.generation
            try:
                await link.open()
            except CourierError as error:
                link.back_off(error, generation)

        task = asyncio.ensure_future(open_link())
        self._openings.add(task)
        task.add_done_callback(self._openings.discard)

    def _record_health(self) -> None:
        for link in self._links:
            if link.is_open:
                if not link.in_flight:
                    link.send_heartbeat()
                link.record_health()
