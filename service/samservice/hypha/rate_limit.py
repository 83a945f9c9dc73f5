"""Limit the rate of messages over one connection to a Hypha server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Hypha closes a connection that sends more than 200 messages a second after a burst of 2000
#: (``HYPHA_WS_MSG_RATE_LIMIT``, ``HYPHA_WS_MSG_BURST_LIMIT``), and with it every call over it.
MESSAGES_PER_S = 180.0
BURST_MESSAGES = 1500


class MessageRateLimiter:
    """A token bucket: it admits a burst, then ``MESSAGES_PER_S``, in the order of arrival.

    A service acknowledges each part of each caller's image, so the callers are slowed down as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST_MESSAGES)
        self._seen_s = clock()

    async def wait(self) -> None:
        """Wait until one more message may be sent."""
        if (wait_s := self._reserve_s()) > 0:
            await asyncio.sleep(wait_s)

    def _reserve_s(self) -> float:
        """Take one token; return the seconds until its message may be sent."""
        now_s = self._clock()
        refilled = self._left + (now_s - self._seen_s) * MESSAGES_PER_S
        self._left = min(refilled, float(BURST_MESSAGES)) - 1
        self._seen_s = now_s
        return max(-self._left / MESSAGES_PER_S, 0.0)
