"""Admission to the service: how many images and bytes wait, and how many of each caller."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..contract.errors import ServiceBusy


class Admission:
    """Counts the images from their arrival to their answer.

    ``max_images`` bounds their number, the images in the pipeline included, ``max_bytes`` the bytes
    of their requests; a single request may be larger.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._image_count = 0
        self._image_bytes = 0
        self._images_of: Counter[str | None] = Counter()
        self._last_end_s = time.monotonic()

    def slots_left(self, caller: str | None) -> int:
        """Return the number of further images of ``caller`` that the service accepts now.

        One caller can hold three quarters of the places at most; otherwise the jobs of a cluster
        would take them all.
        """
        if self._image_bytes >= self._max_bytes:
            return 0
        free = self._max_images - self._image_count
        caller_limit = self._max_images - self._max_images // 4
        return max(min(free, caller_limit - self._images_of[caller]), 0)

    def images_ahead(self, caller: str | None) -> int:
        """Return how many images would be served before a new one of ``caller``.

        Callers are served in turn, so of each other caller at most as many count as this one has,
        and one more.
        """
        own = self._images_of[caller]
        others = (n for name, n in self._images_of.items() if name != caller)
        return own + sum(min(n, own + 1) for n in others)

    def images_of(self, caller: str | None) -> int:
        """Return how many images of ``caller`` are here, those of all its jobs."""
        return self._images_of[caller]

    def callers(self) -> int:
        """Return how many callers have images here."""
        return len(self._images_of)

    @contextmanager
    def hold_slot(self, caller: str | None, request_bytes: int) -> Iterator[None]:
        """Hold one place; raise ServiceBusy at once when there is none."""
        if self.slots_left(caller) <= 0:
            raise ServiceBusy(
                f"the queue already holds {self._image_count} images of"
                f" {self._image_bytes / 1e6:.0f} MB, try again later"
            )
        if self._image_count and self._image_bytes + request_bytes > self._max_bytes:
            raise ServiceBusy(
                f"the queue already holds {self._image_bytes / 1e6:.0f} MB, and at most"
                f" {self._max_bytes / 1e6:.0f} MB with this image, try again later"
            )
        self._image_count += 1
        self._image_bytes += request_bytes
        self._images_of[caller] += 1
        try:
            yield
        finally:
            self._image_count -= 1
            self._image_bytes -= request_bytes
            self._images_of[caller] -= 1
            if not self._images_of[caller]:
                del self._images_of[caller]
            self._last_end_s = time.monotonic()

    def idle_s(self) -> float:
        """Return the seconds since the last image was answered, 0 while there is one."""
        return 0.0 if self._image_count else time.monotonic() - self._last_end_s
