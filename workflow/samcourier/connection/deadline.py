"""The deadline of a call that may wait in the service's queue. Pure.

The service takes its callers in turn, and the images of each in their order. Before an image with n
images of its caller ahead of it, at most n and, of each other caller, n + 1 are finished.
"""

from __future__ import annotations

from .flow import ServiceLoad


class Deadline:
    """The time by which a call must be answered; progress of the service extends it.

    Args:
        now_s: The current time, in seconds of the caller's clock.
        timeout_s: How long the call may take once no other image is ahead of it.
        max_images_ahead: How many images the service may finish before this one, for a service that
            does not report how many it holds.
    """

    def __init__(self, now_s: float, timeout_s: float, max_images_ahead: int = 0) -> None:
        self.timeout_s = timeout_s
        self.at_s = now_s + timeout_s
        #: Seconds from now after which the call fails, whatever progress the service reports.
        self.longest_s = timeout_s * (max_images_ahead + 1) ** 2
        self._max_images_ahead = max_images_ahead
        self._first: int | None = None
        self._last = 0
        #: The most images of this caller that were there. Those that arrive while this one is still
        #: on its way are ahead of it, and nothing tells them from those that arrive later.
        self._own: int | None = None
        self._is_unknown = False
        self._callers = 1
        self._depth = 0

    def note(self, images_finished: int, now_s: float, load: ServiceLoad | None = None) -> None:
        """Note how many images the service has finished in all, and extend the deadline.

        The first count is the reference for this call. A count that falls comes from a service
        that has restarted and does not know this call: nothing extends the deadline any more.
        """
        load = load or ServiceLoad()
        self._callers = max(self._callers, load.callers or 1)
        self._depth = max(self._depth, load.depth or 0)
        if load.caller_images is not None:
            self._own = max(self._own or 0, load.caller_images)
        if self._first is None:
            self._first = images_finished
        elif images_finished < self._last:
            self._is_unknown = True
        elif self._last < images_finished <= self._limit():
            self.at_s = now_s + self.timeout_s
        self._last = images_finished

    def _limit(self) -> int:
        """Return the count of finished images up to which this image may still wait."""
        if self._is_unknown or self._first is None:
            return -1
        if self._own is None:
            return self._first + self._max_images_ahead
        # Those in the pipeline may overtake each other.
        return self._first + (self._own + 1) * self._callers + self._depth
