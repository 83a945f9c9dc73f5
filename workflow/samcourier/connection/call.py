"""One call to the service: its request, its answer, and the record of every attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import CourierError
from ..failure import Failure
from ..results.image_log import Attempt, CallBytes, CallSeconds, Method
from .ranking import Choice
from .throughput import Payload, Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call to the service, over any transport.

    ``accept`` converts the service's answer to the caller's value. It raises ServiceFailed when
    the answer does not fit, which counts as a failed attempt. ``replica`` is the name of the
    replica that is called while it is reachable, because it holds what the call needs; None for
    any.
    """

    method: Method
    arguments: dict[str, Any]
    payload: Payload
    accept: Callable[[Any], Awaitable[T]]
    replica: str | None = None


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The value that ``accept`` returned, and every attempt of the call."""

    value: T
    attempts: tuple[Attempt, ...]


class CallFailed(Exception):
    """A call failed finally: ``cause`` is the decisive failure, ``attempts`` are all attempts."""

    def __init__(self, cause: CourierError, attempts: Sequence[Attempt]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.attempts = tuple(attempts)


def attempt_record(
    choice: Choice,
    replica: str | None,
    started_at: str,
    payload: Payload,
    total_s: float,
    sample: Sample | None,
    alone: Sample | None,
    error: CourierError | None,
) -> Attempt:
    """Return the log record of one attempt.

    Args:
        choice: The transport, why it was chosen, and the seconds predicted for it.
        replica: The name of the replica, None for a service without names.
        started_at: When the attempt started, as UTC text.
        payload: The bytes of the request, and those expected of the answer.
        total_s: How long the attempt took, in seconds.
        sample: The measured seconds of each part, None when nothing was measured.
        alone: The same, computed as if no other call had shared the transport.
        error: Why the attempt failed, None if it succeeded.
    """
    if sample is None:
        seconds = CallSeconds(total=total_s)
    else:
        seconds = CallSeconds(
            total=total_s,
            send=sample.send_s,
            queue=sample.queue_s,
            service=max(total_s - sample.send_s - sample.receive_s - sample.queue_s, 0.0),
            prepare=sample.prepare_s,
            infer=sample.infer_s,
            finish=sample.finish_s,
            receive=sample.receive_s,
        )
    return Attempt(
        transport=choice.name,
        replica=replica,
        reason=choice.reason,
        started_at=started_at,
        outcome="ok" if error is None else "failed",
        error=None if error is None else Failure.of(error),
        seconds=seconds,
        predicted_s=choice.predicted_s,
        travel_alone_s=None if alone is None else alone.send_s + alone.receive_s,
        bytes=CallBytes(up=payload.up_bytes, down=sample.payload.down_bytes if sample else 0),
    )
