"""Stop a service when it has no images and its owner no longer renews its owner file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path


class IdleTimer:
    """Measure for how long neither an image nor the owner has needed the service.

    The owner renews the modification time of ``owner_file`` as a heartbeat. Only a change of this
    time counts, because the clocks of the owner and of the file server may differ from this
    machine's. ``service_idle_s`` returns the seconds since the last image.
    """

    def __init__(
        self,
        service_idle_s: Callable[[], float],
        owner_file: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service_idle_s = service_idle_s
        self._owner_file = owner_file
        self._clock = clock
        self._owner_seen_ns = self._owner_time_ns()
        self._owner_seen_s = clock()

    def idle_s(self) -> float:
        """Check the owner file and return the seconds for which nobody has needed the service."""
        time_ns = self._owner_time_ns()
        if time_ns is not None and time_ns != self._owner_seen_ns:
            self._owner_seen_ns, self._owner_seen_s = time_ns, self._clock()
        return min(self._service_idle_s(), self._clock() - self._owner_seen_s)

    def _owner_time_ns(self) -> int | None:
        try:
            return None if self._owner_file is None else self._owner_file.stat().st_mtime_ns
        except OSError:
            return None


async def stop_when_idle(timer: IdleTimer, idle_limit_s: float, stop: asyncio.Event) -> None:
    """Set ``stop`` when the service has been idle for ``idle_limit_s``, see :class:`IdleTimer`."""
    while timer.idle_s() < idle_limit_s:
        await asyncio.sleep(min(idle_limit_s / 10, 10.0))
    stop.set()
