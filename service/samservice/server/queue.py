"""The queue of the engine: bounded, first in, first out, one image at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ..contract.errors import SegmentationFailed, ServiceBusy, ServiceError

T = TypeVar("T")


class Stopwatch:
    """Measure the seconds of named stages; laps of the same name are added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the current stage and add its seconds to ``name``."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class EngineQueue:
    """Run the engine in its own thread, and prepare the next image in another.

    ``max_images`` is the number of images in the queue, the running one included.
    """

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        #: Held by the image in preparation, until the engine starts it.
        self._preparation = asyncio.Lock()
        self._is_closed = False
        self._image_count = 0
        self._images_of: Counter[str | None] = Counter()
        #: Only the engine's thread writes it.
        self._images_finished = 0
        self._last_end_s = time.monotonic()

    @property
    def images_finished(self) -> int:
        """Number of images that the engine has finished, failed ones included."""
        return self._images_finished

    def slots_left(self, caller: str | None) -> int:
        """Return the number of further images of ``caller`` that the queue accepts now.

        One caller can hold three quarters of the queue at most; otherwise the jobs of a cluster
        would fill it.
        """
        free = self._max_images - self._image_count
        caller_limit = self._max_images - self._max_images // 4
        return max(min(free, caller_limit - self._images_of[caller]), 0)

    def close(self) -> None:
        """Let the running image finish and cancel the waiting ones."""
        self._is_closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def hold_slot(self, caller: str | None) -> AsyncIterator[None]:
        """Hold one slot of the queue; raise ServiceBusy at once when it is full."""
        if self.slots_left(caller) <= 0:
            raise ServiceBusy(
                f"the queue already holds {self._image_count} images, try again later"
            )
        self._image_count += 1
        self._images_of[caller] += 1
        try:
            yield
        finally:
            self._image_count -= 1
            self._images_of[caller] -= 1
            if not self._images_of[caller]:
                del self._images_of[caller]
            self._last_end_s = time.monotonic()

    def idle_s(self) -> float:
        """Return the seconds since the last image left the queue, 0 while the queue holds one."""
        return 0.0 if self._image_count else time.monotonic() - self._last_end_s

    async def run(
        self, stopwatch: Stopwatch, prepare: Callable[[], Callable[[], T] | None]
    ) -> T | None:
        """Call ``prepare``, run the work that it returns in the engine's thread, return its result.

        Returns None when ``prepare`` returns None. While the engine runs one image, another thread
        prepares the next, so that at most two images are unpacked at a time. The stopwatch gets the
        laps ``unpack`` and, for both waits, ``queue``.

        Raises the ServiceErrors of ``prepare`` and of the work, and SegmentationFailed for any
        other error of the work.
        """
        loop = asyncio.get_running_loop()
        async with self._preparation:
            if self._is_closed:
                # The same error as for images that the engine's executor cancelled.
                raise asyncio.CancelledError
            stopwatch.lap("queue")
            work = await asyncio.to_thread(prepare)
            stopwatch.lap("unpack")
            if work is None:
                return None
            started: asyncio.Future[None] = loop.create_future()

            def start() -> T:
                loop.call_soon_threadsafe(started.set_result, None)
                stopwatch.lap("queue")
                try:
                    return work()
                finally:
                    self._images_finished += 1

            running = loop.run_in_executor(self._worker, start)
            either: set[asyncio.Future[Any]] = {started, running}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                running.cancel()
                raise
        try:
            return await running
        except ServiceError:
            raise
        except Exception as error:
            raise SegmentationFailed(f"{type(error).__name__}: {error}") from error
