"""Run coroutines concurrently, with a limit and with cancellation at the first failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from .errors import CourierError


class Limiter:
    """Limit concurrent work to ``capacity()``, which may change; further work waits for a slot."""

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        self._taken = 0
        self._room = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._room:
            await self._room.wait_for(lambda: self._taken < self._capacity())
            self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            async with self._room:
                # Wake only as many as have a slot, not all of a thousand waiting images.
                self._room.notify(max(self._capacity() - self._taken, 1))


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all coroutines; the first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait for their end; raise an error that is not a CourierError.

    Awaiting a cancelled task under ``suppress(CancelledError)`` would also swallow the caller's own
    cancellation, and leave it running forever.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, CourierError):
            raise error
