"""Ending background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from ..errors import CourierError


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
