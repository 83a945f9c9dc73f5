"""Stop a service when it has no images and its owner no longer renews its owner file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path


class Need:
    """Measure how long ago the service was last needed: by an image or by its owner.

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

    def unneeded_s(self) -> float:
        """Check the owner file, and return the seconds since the service was last needed."""
        time_ns = self._owner_time_ns()
        if time_ns is not None and time_ns != self._owner_seen_ns:
            self._owner_seen_ns, self._owner_seen_s = time_ns, self._clock()
        return min(self._service_idle_s(), self._clock() - self._owner_seen_s)

    def _owner_time_ns(self) -> int | None:
        try:
            return None if self._owner_file is None else self._owner_file.stat().st_mtime_ns
        except OSError:
            return None


async def stop_when_unneeded(need: Need, idle_limit_s: float, stop: asyncio.Event) -> None:
    """Set ``stop`` when the service has not been needed for ``idle_limit_s``."""
    while need.unneeded_s() < idle_limit_s:
        await asyncio.sleep(min(idle_limit_s / 10, 10.0))
    stop.set()
