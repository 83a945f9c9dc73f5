"""Signs of life over one transport: when its far side was heard, and how far the service is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from samservice.contract.wire import MOVED_MIN_BYTES

from ..transports.base import Transport
from .deadline import Deadline
from .retry import Policy


class Liveness:
    """What is noted of a transport while it is open; it stays when it is closed."""

    def __init__(self, transport: Transport, policy: Policy, clock: Callable[[], float]) -> None:
        #: When the far side was last heard or bytes last moved.
        self.last_heard_s = -math.inf
        #: When the service was last seen to have finished an image, whosever it was.
        self.got_on_s = -math.inf
        self._transport = transport
        self._policy = policy
        self._clock = clock
        self._carried_s = -math.inf
        self._asked_s: float | None = None
        self._moved_bytes = 0
        self._not_listened_s = 0.0
        self._most_finished: int | None = None
        self._counted_s = -math.inf
        self._deadlines: set[Deadline] = set()

    def opened(self) -> None:
        """Begin: the far side has just been heard."""
        self._moved_bytes = self._transport.progress()
        self._most_finished = self._asked_s = None
        self._counted_s = self._clock()
        self.carried()
        self.heard()

    def carried(self) -> None:
        """Note that more than signs of life is carried: they are asked for often again."""
        self._carried_s = self._clock()

    def heard(self) -> None:
        """Note that the far side is there."""
        self.last_heard_s = self._clock()
        self._not_listened_s = 0.0

    def asked(self) -> None:
        """Note that a sign of life is asked for."""
        self._asked_s = self._clock()
        self._not_listened_s = 0.0

    def answered(self) -> None:
        """Note that what was asked for came, whose own bytes are nothing that is carried."""
        self._asked_s = None
        self.look()
        self._moved_bytes = self._transport.progress()
        self.heard()

    def look(self) -> None:
        """Note what bytes have moved."""
        moved_bytes = self._transport.progress()
        if not 0 <= moved_bytes - self._moved_bytes < MOVED_MIN_BYTES:
            self._moved_bytes = moved_bytes
            self.carried()
            self.heard()

    def forgive(self, seconds: float) -> None:
        """Take off the silence what this process itself did not listen."""
        self._not_listened_s += seconds

    def heard_ago_s(self) -> float:
        """Return how long ago the far side was heard or bytes moved."""
        return self._clock() - self.last_heard_s

    def is_due(self) -> bool:
        """Tell whether a sign of life is to be asked for: the rarer, the longer nothing came."""
        policy, idle_s = self._policy, self._clock() - self._carried_s
        pause_s = max(policy.heartbeat_s, policy.heartbeat_share * idle_s)
        return self.heard_ago_s() >= min(pause_s, self._longest_pause_s())

    def is_count_due(self) -> bool:
        """Tell whether calls wait and it was not heard for long how far the service is."""
        counted_ago_s = self._clock() - self._counted_s
        return bool(self._deadlines) and counted_ago_s >= self._longest_pause_s()

    def _longest_pause_s(self) -> float:
        shortest_s = min((each.timeout_s for each in self._deadlines), default=math.inf)
        return min(self._policy.heartbeat_max_s, shortest_s / 4)

    def silent_since_s(self) -> float:
        """Return since when a sign of life is owed; what was not asked for is no silence."""
        asked_s = self._clock() if self._asked_s is None else self._asked_s
        return max(self.last_heard_s, asked_s - self._policy.heartbeat_s) + self._not_listened_s

    def silence_s(self) -> float:
        """Return for how long it has owed a sign of life."""
        return max(self._clock() - self.silent_since_s(), 0.0)

    def note(self, answer: Any) -> None:
        """Take in a probe's answer: how far the service is, if it is one that tells."""
        finished = answer.get("images_finished") if isinstance(answer, dict) else None
        if not isinstance(finished, int):
            return
        now_s = self._counted_s = self._clock()
        if self._most_finished is not None and finished > self._most_finished:
            self.got_on_s = now_s
        self._most_finished = max(finished, self._most_finished or 0)
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
