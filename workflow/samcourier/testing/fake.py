"""A scripted transport for tests, without a network. A run never uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import CourierError, RequestRefused, TransportFailed
from ..transports.translate import translate


@dataclass(frozen=True)
class Scripted:
    """One step of a script: wait ``delay_s``, then raise ``error``, or continue if it is None."""

    delay_s: float = 0.0
    error: CourierError | None = None


class FakeTransport:
    """Calls the methods of ``service``, an object in this process, after the steps of a script.

    ``opens`` has a step for each opening, ``manager_calls`` for each call of ``describe`` and
    ``probe``, which the connection manager makes for itself, ``calls`` for each other call. After
    its last step, a script adds no delay and no error. ``history`` lists the called methods, with
    ``open`` and ``close``.
    """

    def __init__(
        self,
        service: object,
        *,
        name: str = "fake",
        opens: Iterable[Scripted] = (),
        calls: Iterable[Scripted] = (),
        manager_calls: Iterable[Scripted] = (),
    ) -> None:
        self.name = name
        self.history: list[str] = []
        self._service = service
        self._opens = iter(opens)
        self._calls = iter(calls)
        self._manager_calls = iter(manager_calls)
        self._is_open = False
        #: Tests raise it to simulate bytes that move.
        self.moved_bytes = 0

    def progress(self) -> int:
        """Return the number of bytes that the test has set."""
        return self.moved_bytes

    def state(self) -> str:
        """Return ``open`` or ``closed``."""
        return "open" if self._is_open else "closed"

    async def open(self, timeout_s: float) -> None:
        """Run the next step of the script for openings."""
        self.history.append("open")
        await self._run_step(next(self._opens, Scripted()), timeout_s)
        self._is_open = True

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Run the next step of the script for this call, then call the method of the service."""
        self.history.append(method)
        if not self._is_open:
            raise TransportFailed(f"{self.name}: the connection is closed")
        script = self._manager_calls if method in ("describe", "probe") else self._calls
        await self._run_step(next(script, Scripted()), timeout_s)
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

    async def _run_step(self, step: Scripted, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(step.delay_s)
        except TimeoutError as error:
            raise translate(error, self.name) from error
        if step.error is not None:
            raise step.error
