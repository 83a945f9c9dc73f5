"""The queue before the one engine: bounded, first come, first served, one image at a time."""

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
    """Seconds between laps, by name; those of one name are added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Close the stage that ends now."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class EngineQueue:
    """Runs the engine in a thread of its own, and prepares the next image in another."""

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        #: Held by the image that is prepared, until the engine begins with it.
        self._next_turn = asyncio.Lock()
        self._is_closed = False
        self._image_count = 0
        self._images_of: Counter[str | None] = Counter()
        #: Counted by the engine's thread alone.
        self._images_finished = 0
        self._last_end_s = time.monotonic()

    @property
    def images_finished(self) -> int:
        """How many images the engine is done with, those included that it failed on."""
        return self._images_finished

    def places_left(self, caller: str | None) -> int:
        """Return how many more images of ``caller`` would be taken now.

        A quarter of the places is kept from whoever holds the rest: first come, first served, a
        cluster's jobs would leave others none.
        """
        free = self._max_images - self._image_count
        of_one = self._max_images - self._max_images // 4
        return max(min(free, of_one - self._images_of[caller]), 0)

    def close(self) -> None:
        """Let the running image finish, drop the waiting ones."""
        self._is_closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def place(self, caller: str | None) -> AsyncIterator[None]:
        """Hold one of the bounded places, or raise ServiceBusy at once."""
        if self.places_left(caller) <= 0:
            raise ServiceBusy(f"{self._image_count} images are waiting already, ask again later")
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
        """Return the seconds since the last image left, 0 while one has a place."""
        return 0.0 if self._image_count else time.monotonic() - self._last_end_s

    async def run(
        self, stopwatch: Stopwatch, prepare: Callable[[], Callable[[], T] | None]
    ) -> T | None:
        """Run the work for the engine that ``prepare`` returns; None when that is none.

        Prepared is, in another thread, the next while the engine has the one before, so that no
        more than two images are unpacked, however many wait. What the work raises and is not a
        ServiceError becomes SegmentationFailed. The stopwatch gets the laps ``unpack``, and
        ``queue`` for both waits.
        """
        loop = asyncio.get_running_loop()
        async with self._next_turn:
            if self._is_closed:
                # As for those that the engine's queue dropped.
                raise asyncio.CancelledError
            stopwatch.lap("queue")
            work = await asyncio.to_thread(prepare)
            stopwatch.lap("unpack")
            if work is None:
                return None
            begun: asyncio.Future[None] = loop.create_future()

            def begin() -> T:
                loop.call_soon_threadsafe(begun.set_result, None)
                stopwatch.lap("queue")
                try:
                    return work()
                finally:
                    self._images_finished += 1

            running = loop.run_in_executor(self._worker, begin)
            either: set[asyncio.Future[Any]] = {begun, running}
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
