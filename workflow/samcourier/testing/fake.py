"""A scripted transport for tests: the seam's behaviour without a network. Never used by a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import CourierError, RequestRefused, TransportFailed
from ..transports.translate import translate


@dataclass(frozen=True)
class Scripted:
    """What one opening or call does first: wait, then raise, or go on if ``error`` is None."""

    delay_s: float = 0.0
    error: CourierError | None = None


class FakeTransport:
    """Calls an object in this process; ``opens`` and ``calls`` script what happens before.

    ``asides`` scripts what the manager asks for itself: describe and probe. A script that is used
    up means that everything goes well. ``history`` lists the methods called, openings and closings
    included.
    """

    def __init__(
        self,
        service: object,
        *,
        name: str = "fake",
        opens: Iterable[Scripted] = (),
        calls: Iterable[Scripted] = (),
        asides: Iterable[Scripted] = (),
    ) -> None:
        self.name = name
        self.history: list[str] = []
        self._service = service
        self._opens = iter(opens)
        self._calls = iter(calls)
        self._asides = iter(asides)
        self._is_open = False
        #: Set by a test to have bytes move.
        self.moved_bytes = 0

    def progress(self) -> int:
        """Return what the test says has moved."""
        return self.moved_bytes

    def state(self) -> str:
        """Tell whether it is open."""
        return "open" if self._is_open else "closed"

    async def open(self, timeout_s: float) -> None:
        """Follow the script of openings."""
        self.history.append("open")
        await self._follow(next(self._opens, Scripted()), timeout_s)
        self._is_open = True

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Follow the script of calls, then call the object's method."""
        self.history.append(method)
        if not self._is_open:
            raise TransportFailed(f"{self.name}: the connection is closed")
        script = self._asides if method in ("describe", "probe") else self._calls
        await self._follow(next(script, Scripted()), timeout_s)
        if not hasattr(self._service, method):
            raise RequestRefused(f"the service has no method {method!r}", name="NoSuchMethod")
        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(self._service, method)(**arguments)
        except Exception as error:
            raise translate(error, self.name) from error

    async def close(self) -> None:
        """Refuse further calls."""
        self.history.append("close")
        self._is_open = False

    async def _follow(self, scripted: Scripted, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(scripted.delay_s)
        except TimeoutError as error:
            raise translate(error, self.name) from error
        if scripted.error is not None:
            raise scripted.error
