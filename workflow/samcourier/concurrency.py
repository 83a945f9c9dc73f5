"""Work side by side: no more at once than there are places, and the first failure ends all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from .errors import CourierError


class Limiter:
    """Lets in as many as ``capacity`` says at the moment; who waits comes in as others leave."""

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
                # No more than can come in: all of a thousand waiting images would look each time.
                self._room.notify(max(self._capacity() - self._taken, 1))


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them; the first to raise ends the others, and what it raised is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def end_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait for their end; raise what no caller expects of one of them.

    Awaiting a cancelled task under ``suppress(CancelledError)`` would also swallow the caller's own
    cancellation, and leave it running for ever.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, CourierError):
            raise error
