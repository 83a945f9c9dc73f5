"""Liveness of one transport: when its far side was last heard, and the service's progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from samservice.contract.wire import MOVED_MIN_BYTES

from ..transports.base import Transport
from .deadline import Deadline
from .flow import ServiceLoad
from .time_limits import Policy


class Liveness:
    """Observations of a transport while it is open; they are kept after it is closed.

    Args:
        transport: The observed transport.
        policy: The limits for heartbeats and silence.
        clock: Returns monotonic seconds; every time here is on this clock.
    """

    def __init__(self, transport: Transport, policy: Policy, clock: Callable[[], float]) -> None:
        #: When the far side was last heard or bytes last moved.
        self.last_heard_s = -math.inf
        #: When the service was last seen to have finished an image, of any client.
        self.last_progress_s = -math.inf
        self._transport = transport
        self._policy = policy
        self._clock = clock
        self._payload_moved_s = -math.inf
        self._heartbeat_sent_s: float | None = None
        self._moved_bytes = 0
        self._paused_s = 0.0
        self._max_finished: int | None = None
        self._progress_probed_s = -math.inf
        self._deadlines: set[Deadline] = set()

    def note_opened(self) -> None:
        """Note that the transport was opened, which shows that the far side answers."""
        self._moved_bytes = self._transport.progress()
        self._max_finished = self._heartbeat_sent_s = None
        self._progress_probed_s = self._clock()
        self.note_payload()
        self.note_heard()

    def note_payload(self) -> None:
        """Note that bytes other than heartbeats moved: heartbeats become frequent again."""
        self._payload_moved_s = self._clock()

    def note_heard(self) -> None:
        """Note that the far side answered or bytes moved."""
        self.last_heard_s = self._clock()
        self._paused_s = 0.0

    def note_heartbeat_sent(self) -> None:
        """Note that a heartbeat is on its way."""
        self._heartbeat_sent_s = self._clock()
        self._paused_s = 0.0

    def note_heartbeat_answered(self) -> None:
        """Note that the heartbeat was answered; its own bytes do not count as payload."""
        self._heartbeat_sent_s = None
        self.check_bytes()
        self._moved_bytes = self._transport.progress()
        self.note_heard()

    def check_bytes(self) -> None:
        """Note whether payload bytes have moved since the last check."""
        moved_bytes = self._transport.progress()
        if not 0 <= moved_bytes - self._moved_bytes < MOVED_MIN_BYTES:
            self._moved_bytes = moved_bytes
            self.note_payload()
            self.note_heard()

    def exclude_silence(self, seconds: float) -> None:
        """Exclude from the silence the seconds in which this process itself did not run."""
        self._paused_s += seconds

    def heard_ago_s(self) -> float:
        """Return the seconds since the far side was heard or bytes moved."""
        return self._clock() - self.last_heard_s

    def is_heartbeat_due(self) -> bool:
        """Tell whether to send a heartbeat; the pause grows while no payload moves."""
        policy, idle_s = self._policy, self._clock() - self._payload_moved_s
        pause_s = max(policy.heartbeat_s, policy.heartbeat_share * idle_s)
        return self.heard_ago_s() >= min(pause_s, self._longest_pause_s())

    def is_progress_probe_due(self) -> bool:
        """Tell whether calls wait and the service's progress was not reported for long."""
        progress_age_s = self._clock() - self._progress_probed_s
        return bool(self._deadlines) and progress_age_s >= self._longest_pause_s()

    def _longest_pause_s(self) -> float:
        shortest_s = min((each.timeout_s for each in self._deadlines), default=math.inf)
        return min(self._policy.heartbeat_max_s, shortest_s / 4)

    def silent_since_s(self) -> float:
        """Return since when an answer is overdue; without a heartbeat sent there is no silence."""
        sent_s = self._clock() if self._heartbeat_sent_s is None else self._heartbeat_sent_s
        return max(self.last_heard_s, sent_s - self._policy.heartbeat_s) + self._paused_s

    def silence_s(self) -> float:
        """Return the seconds for which an answer has been overdue, at least 0."""
        return max(self._clock() - self.silent_since_s(), 0.0)

    def note_probe_answer(self, answer: Any) -> None:
        """Note the service's progress from a probe's answer, if the answer reports it."""
        finished = answer.get("images_finished") if isinstance(answer, dict) else None
        if not isinstance(finished, int):
            return
        now_s = self._progress_probed_s = self._clock()
        if self._max_finished is not None and finished > self._max_finished:
            self.last_progress_s = now_s
        self._max_finished = max(finished, self._max_finished or 0)
        load = ServiceLoad.of(answer)
        for deadline in self._deadlines:
            deadline.note(finished, now_s, load)

    @contextmanager
    def extending(self, deadline: Deadline) -> Iterator[None]:
        """Extend the deadline of a call within this context while the service makes progress."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)
