"""A service that nobody needs any more ends by itself: no image is left and its owner is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path


class Need:
    """When the service was needed last: an image in service, or a sign of life of the owner.

    The owner renews the time of ``owner_file``. Only that it changes counts: the owner's clock,
    or the file server's, may be another than this machine's.
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
        self._seen_ns = self._owner_time_ns()
        self._seen_s = clock()

    def unneeded_s(self) -> float:
        """Return the seconds since the service was needed, as of the last look; look again."""
        seen_ns = self._owner_time_ns()
        if seen_ns is not None and seen_ns != self._seen_ns:
            self._seen_ns, self._seen_s = seen_ns, self._clock()
        return min(self._service_idle_s(), self._clock() - self._seen_s)

    def _owner_time_ns(self) -> int | None:
        try:
            return None if self._owner_file is None else self._owner_file.stat().st_mtime_ns
        except OSError:
            return None


async def stop_when_unneeded(need: Need, idle_limit_s: float, stop: asyncio.Event) -> None:
    """Set ``stop`` once the service was not needed for ``idle_limit_s``."""
    while need.unneeded_s() < idle_limit_s:
        await asyncio.sleep(min(idle_limit_s / 10, 10.0))
    stop.set()
