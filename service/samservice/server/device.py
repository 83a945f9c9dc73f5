"""The thread of the device: it infers what is prepared, in batches of images that fit together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..contract.errors import SegmentationFailed, ServiceError
from .round_robin import RoundRobin
from .stage_times import StageTimes
from .work import Job, as_service_error


class Device:
    """Runs ``infer`` of prepared jobs in one thread, and passes each state on at once.

    Args:
        times: Gets the seconds of each call.
        started: Called in the thread with each job that begins.
        finished: Called in the thread with each job and its state, or with its error.
    """

    def __init__(
        self,
        times: StageTimes,
        started: Callable[[Job[Any]], None],
        finished: Callable[[Job[Any], Any, ServiceError | None], None],
    ) -> None:
        self._times = times
        self._started = started
        self._finished = finished
        self._prepared: RoundRobin[Job[Any]] = RoundRobin()
        self._changed = threading.Condition()
        self._is_closed = False
        #: The batch size of each key after the device's memory did not suffice for a larger one.
        self._smaller: dict[Hashable, int] = {}
        # A daemon, because a call that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def put(self, job: Job[Any]) -> None:
        """Add a prepared job."""
        with self._changed:
            self._prepared.put(job.work.caller, job)
            self._changed.notify()

    def remove(self, job: Job[Any]) -> bool:
        """Remove a job that has not begun; return whether it was there."""
        with self._changed:
            return self._prepared.remove(job.work.caller, job)

    def remove_all(self) -> list[Job[Any]]:
        """Remove and return the jobs that have not begun."""
        with self._changed:
            removed, self._prepared = list(self._prepared), RoundRobin()
        return removed

    def close(self) -> None:
        """End the thread after the running call."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        # No name here keeps a batch while the thread waits for the next one.
        while self._run_batch():
            pass

    def _run_batch(self) -> bool:
        batch = self._next_batch()
        if batch:
            self._infer(batch)
        return bool(batch)

    def _next_batch(self) -> list[Job[Any]]:
        """Wait for a job, and return it with all waiting ones that fit; empty when closed."""
        with self._changed:
            while not self._is_closed and not len(self._prepared):
                self._changed.wait()
            first = None if self._is_closed else self._prepared.take()
            if first is None:
                return []
            batch = [first]
            for _ in range(self._max_batch(first) - 1):
                other = self._prepared.take(lambda job: _fits(first, job))
                if other is None:
                    break
                batch.append(other)
        for job in batch:
            self._started(job)
        return batch

    def _max_batch(self, job: Job[Any]) -> int:
        if job.prepared is None or job.prepared.batch_key is None:
            return 1
        return min(job.max_batch, self._smaller.get(job.prepared.batch_key, job.max_batch))

    def _infer(self, batch: Sequence[Job[Any]]) -> None:
        """Infer a batch. One that fails is tried again in halves: only the culprit fails."""
        begin_s = time.monotonic()
        for job in batch:
            job.batch_size = len(batch)
            job.begin("infer")
        states, error, is_out_of_memory = _call_infer(batch)
        end_s = time.monotonic()
        self._times.note_device(begin_s, end_s)
        shares_s = [job.end(len(batch)) for job in batch]
        if error is None:
            for job, state, share_s in zip(batch, states, shares_s, strict=True):
                self._times.note("infer", share_s)
                self._finished(job, state, None)
        elif len(batch) == 1:
            self._finished(batch[0], None, error)
        else:
            half = len(batch) // 2
            if is_out_of_memory and batch[0].prepared is not None:
                self._smaller[batch[0].prepared.batch_key] = half
            self._infer(batch[:half])
            self._infer(batch[half:])


def _call_infer(batch: Sequence[Job[Any]]) -> tuple[list[Any], ServiceError | None, bool]:
    """Return the states, or the error and whether the memory did not suffice.

    Nothing of a failed call remains: its traceback would hold the device's memory while the halves
    are tried.
    """
    given = [job.prepared for job in batch if job.prepared is not None]
    try:
        states = list(batch[0].work.infer(given))
        if len(states) != len(batch):
            raise SegmentationFailed(
                f"the engine's infer returned {len(states)} results for {len(batch)} images"
            )
    except BaseException as error:
        return [], as_service_error(error), isinstance(error, MemoryError)
    return states, None, False


def _fits(first: Job[Any], job: Job[Any]) -> bool:
    """Tell whether two jobs may be inferred together."""
    if first.prepared is None or job.prepared is None:
        return False
    same_key = first.prepared.batch_key == job.prepared.batch_key
    return same_key and first.work.infer == job.work.infer
