"""The work for one image, as the pipeline carries it from stage to stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..contract.errors import SegmentationFailed, ServiceError
from ..engines.stages import Prepared

R = TypeVar("R")


@dataclass(frozen=True)
class Known:
    """What ``prepare`` returns when the labels are known without the device.

    Attributes:
        labels: The labels, uint32.
        note: Why the device is not needed, for the caller; None when it needs no explanation.
    """

    labels: Any
    note: str | None = None


def alone(_: Hashable) -> int:
    """Return the batch size of an engine that takes one image at a time."""
    return 1


@dataclass(frozen=True)
class Work(Generic[R]):
    """The stages of one image; see :class:`samservice.engines.stages.Stages`.

    Attributes:
        caller: Whose image it is; callers are served in turn.
        working_bytes: The bytes that it holds from ``prepare`` to the end of ``finish``.
        prepare: Called in a thread. None: the work has the state already, and ``finish``, which
            receives None, is its only stage.
        infer: Called in the device's thread. Works with the same ``infer`` may share a batch.
        finish: Called in a thread with the state, or with what ``prepare`` returned as Known.
        max_batch: Returns how many images of a batch key ``infer`` accepts.
    """

    caller: str | None
    working_bytes: int
    prepare: Callable[[], Prepared | Known] | None
    infer: Callable[[Sequence[Prepared]], Sequence[Any]]
    finish: Callable[[Any], R]
    max_batch: Callable[[Hashable], int] = alone


@dataclass(eq=False)
class Job(Generic[R]):
    """One work in the pipeline. One thread at a time has it; the event loop may cancel it."""

    work: Work[R]
    prepared: Prepared | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    result: Future[R] = field(default_factory=Future)
    #: The stage that runs now and when it began, None between two stages.
    running: tuple[str, float] | None = None
    used_device: bool = False
    #: How many images ``infer`` may receive together with this one, this one included.
    max_batch: int = 1
    #: How many images its call of ``infer`` has.
    batch_size: int = 1
    #: Seconds of the running stage in which the process itself was stopped.
    excluded_s: float = 0.0
    #: Its stage runs for too long: it never leaves the pipeline.
    hangs: bool = False
    _left: threading.Event = field(default_factory=threading.Event)
    _waiting_since_s: float = field(default_factory=time.monotonic)

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self._left.is_set()

    def leave(self) -> None:
        """Begin no further stage; one that runs goes on to its end."""
        self._left.set()

    def begin(self, stage: str) -> None:
        """Note that ``stage`` begins; the time since the last one counts as ``queue``."""
        now_s = time.monotonic()
        waited_s = now_s - self._waiting_since_s
        self.seconds["queue"] = self.seconds.get("queue", 0.0) + waited_s
        self.excluded_s = 0.0
        self.running = stage, now_s

    def end(self, image_count: int = 1) -> float:
        """Note that the running stage ends, and return its seconds.

        Of a call with ``image_count`` images, those are its share; the others count as ``queue``.
        """
        assert self.running is not None
        stage, began_s = self.running
        self.running = None
        self._waiting_since_s = time.monotonic()
        seconds = self._waiting_since_s - began_s
        share_s = seconds / image_count
        # A batch that failed is inferred again in parts.
        self.seconds[stage] = self.seconds.get(stage, 0.0) + share_s
        self.seconds["queue"] += seconds - share_s
        return share_s

    def stage_over(self, limit_s: float) -> str | None:
        """Return the running stage when it has run for longer than ``limit_s``."""
        running = self.running
        if running is None or time.monotonic() - running[1] - self.excluded_s <= limit_s:
            return None
        return running[0]

    def succeed(self, result: R) -> None:
        """Set the result, unless the job was cancelled."""
        with suppress(InvalidStateError):
            self.result.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the error, unless the job has its result already or was cancelled."""
        with suppress(InvalidStateError):
            self.result.set_exception(as_service_error(error))


def as_service_error(error: BaseException) -> ServiceError:
    """Return an error of a stage as ServiceError, SegmentationFailed for any other class.

    It has no traceback: that would keep the images in its frames, and the device's memory, alive.
    """
    if isinstance(error, ServiceError):
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be made"
    return SegmentationFailed(f"{type(error).__name__}: {text}")
