"""One call to the service: what is asked, what comes back, and the record of every attempt."""

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
    """One call to be carried out, over whichever transport.

    ``accept`` turns the service's answer into what the caller wants, or raises ServiceFailed
    when the answer does not fit, which counts as a failed attempt.
    """

    method: Method
    arguments: dict[str, Any]
    payload: Payload
    accept: Callable[[Any], Awaitable[T]]


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What ``accept`` made of the answer, and every attempt that led to it."""

    value: T
    attempts: tuple[Attempt, ...]


class CallFailed(Exception):
    """A call failed for good: ``cause`` is the failure that decided, with all attempts."""

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
    if sample is None:
        seconds = CallSeconds(total=total_s)
    else:
        seconds = CallSeconds(
            total=total_s,
            send=sample.send_s,
            queue=sample.queue_s,
            service=max(total_s - sample.send_s - sample.receive_s - sample.queue_s, 0.0),
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
