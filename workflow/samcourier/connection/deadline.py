"""The deadline of a call that may wait in the service's queue. Pure.

The service works first come, first served, so an image may wait for as many images as the queue
holds.
"""

from __future__ import annotations


class Deadline:
    """The time by which a call must be answered; progress of the service extends it.

    Args:
        now_s: The current time, in seconds of the caller's clock.
        timeout_s: How long the call may take once no other image is ahead of it.
        max_images_ahead: How many images the service may finish before this one.
    """

    def __init__(self, now_s: float, timeout_s: float, max_images_ahead: int = 0) -> None:
        self.timeout_s = timeout_s
        self.at_s = now_s + timeout_s
        #: Seconds from now after which the call fails, whatever progress the service reports.
        self.longest_s = timeout_s * (max_images_ahead + 1)
        self._max_images_ahead = max_images_ahead
        self._last: int | None = None
        #: The count of finished images up to which this image may still wait.
        self._limit = 0

    def note(self, images_finished: int, now_s: float) -> None:
        """Note how many images the service has finished in all, and extend the deadline.

        The first count is the reference for this call. A count that falls comes from a service
        that has restarted and does not know this call: nothing extends the deadline any more.
        """
        if self._last is None:
            self._limit = images_finished + self._max_images_ahead
        elif images_finished < self._last:
            self._limit = 0
        elif self._last < images_finished <= self._limit:
            self.at_s = now_s + self.timeout_s
        self._last = images_finished
