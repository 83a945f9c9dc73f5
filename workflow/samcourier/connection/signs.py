"""Signs of life over one transport: when its far side was heard, and how far the service is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..transports.base import Transport
from .deadline import Deadline

#: Less than this may be our own signs of life, which a dead relay's kernel still confirms.
MOVED_MIN_BYTES = 4096


class SignsOfLife:
    """What is noted of a transport while it is open; it stays when it is closed."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        #: When the far side was last heard or bytes last moved.
        self.last_heard_s = -math.inf
        #: When the service was last seen to have finished an image, whosever it was.
        self.got_on_s = -math.inf
        self._transport = transport
        self._clock = clock
        self._moved_bytes = 0
        self._not_listened_s = 0.0
        self._images_finished: int | None = None
        self._deadlines: set[Deadline] = set()

    def opened(self) -> None:
        """Begin: the far side has just been heard."""
        self._moved_bytes = self._transport.progress()
        self.heard()

    def heard(self) -> None:
        """Note that the far side is there."""
        self.last_heard_s = self._clock()
        self._not_listened_s = 0.0

    def forgive(self, seconds: float) -> None:
        """Take off the silence what this process itself did not listen."""
        self._not_listened_s += seconds

    def silence_s(self) -> float:
        """Return for how long neither bytes nor an answer came; of an open transport."""
        moved_bytes = self._transport.progress()
        if not 0 <= moved_bytes - self._moved_bytes < MOVED_MIN_BYTES:
            self._moved_bytes = moved_bytes
            self.heard()
        return max(self._clock() - self.last_heard_s - self._not_listened_s, 0.0)

    def note(self, answer: Any) -> None:
        """Take in a probe's answer: how far the service is, if it is one that tells."""
        finished = answer.get("images_finished") if isinstance(answer, dict) else None
        if not isinstance(finished, int):
            return
        now_s = self._clock()
        if self._images_finished is not None and finished != self._images_finished:
            self.got_on_s = now_s
        self._images_finished = finished
        for deadline in self._deadlines:
            deadline.note(finished, now_s)

    @contextmanager
    def moving(self, deadline: Deadline) -> Iterator[None]:
        """Have the deadline of a call move on as the service gets on."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)
