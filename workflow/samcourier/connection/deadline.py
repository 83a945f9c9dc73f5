"""When a call counts as late, though its turn may not have come yet. Pure.

The service works first come, first served, so an image may wait for as many as its queue holds.
"""

from __future__ import annotations


class Deadline:
    """The time by which a call must be answered; it moves on while the service gets on.

    ``timeout_s`` is how long the call may take once nothing is before it any more, ``most_before``
    how many images the service may finish before this one.
    """

    def __init__(self, now_s: float, timeout_s: float, most_before: int = 0) -> None:
        self.timeout_s = timeout_s
        self.at_s = now_s + timeout_s
        #: Whatever the service says, it does not move beyond this many seconds from now.
        self.longest_s = timeout_s * (most_before + 1)
        self._most_before = most_before
        self._last: int | None = None
        #: The count up to which this image may still wait.
        self._limit = 0

    def note(self, images_finished: int, now_s: float) -> None:
        """Take in how many images the service has finished in all.

        The first count is where this call begins. One that falls is of a service that was started
        anew, and knows nothing of it.
        """
        if self._last is None:
            self._limit = images_finished + self._most_before
        elif images_finished < self._last:
            self._limit = 0
        elif self._last < images_finished <= self._limit:
            self.at_s = now_s + self.timeout_s
        self._last = images_finished
