"""The pipeline of the engine: images in different stages at the same time, bounded in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..contract.errors import SegmentationFailed, ServiceBusy, ServiceError
from .device import Device
from .round_robin import RoundRobin
from .stage_times import StageTimes, Workers, depth
from .work import Job, Known, Work

R = TypeVar("R")


@dataclass(frozen=True)
class PipelineLimits:
    """What may be in the pipeline at the same time.

    Attributes:
        workers: Threads of ``prepare`` and ``finish``, and the largest batch.
        max_ahead: Images in ``prepare`` or between ``prepare`` and ``infer``.
        max_working_bytes: Bytes of all images from ``prepare`` to the end of ``finish``; an image
            that needs more goes alone.
        max_stage_s: Seconds after which a running stage counts as hanging.
    """

    workers: Workers
    max_ahead: int
    max_working_bytes: int
    max_stage_s: float

    @property
    def max_images(self) -> int:
        """Images from the beginning of ``prepare`` to the end of ``finish``."""
        return self.max_ahead + self.workers.infer + self.workers.finish


class Pipeline:
    """Carries each work through ``prepare``, ``infer`` and ``finish``.

    An image waits before ``prepare`` until images and bytes in the pipeline are below the limits.
    Callers are served in turn, there and before the device.
    """

    def __init__(self, limits: PipelineLimits, staged: bool) -> None:
        """``staged`` is False for an engine with ``segment`` alone: one image at a time."""
        self.times = StageTimes()
        self._limits = limits
        self._staged = staged
        self._prepare = ThreadPoolExecutor(limits.workers.prepare, thread_name_prefix="prepare")
        self._finish = ThreadPoolExecutor(limits.workers.finish, thread_name_prefix="finish")
        self._device = Device(self.times, self._device_started, self._device_finished)
        self._lock = threading.Lock()
        self._waiting: RoundRobin[Job[Any]] = RoundRobin()
        self._ahead: set[Job[Any]] = set()
        self._working: set[Job[Any]] = set()
        self._images_finished = 0
        self._is_closed = False
        #: The stage of an image that ran for too long; its thread cannot be ended.
        self.hanging_stage: str | None = None

    @property
    def images_finished(self) -> int:
        """Number of images that the engine has finished, failed ones included."""
        return self._images_finished

    @property
    def depth(self) -> int:
        """How many images a caller should have in the pipeline so that no stage waits."""
        if not self._staged:
            return 1
        seconds = self.times.medians()
        found = 3 if seconds is None else depth(seconds, self._limits.workers)
        return max(min(found, self._limits.max_images), 1)

    def close(self) -> None:
        """Let the running stages end and cancel the waiting images."""
        with self._lock:
            self._is_closed = True
            waiting = [*self._waiting, *(job for job in self._ahead if job.running is None)]
            self._waiting = RoundRobin()
            self._prepare.shutdown(wait=False)
            if not self._working:
                self._finish.shutdown(wait=False)
        for job in waiting:
            job.leave()
            job.result.cancel()
            if self._device.remove(job):
                self._end(job)
        self._device.close()

    async def run(self, work: Work[R], seconds: dict[str, float]) -> R:
        """Carry ``work`` through the stages and return what its ``finish`` returns.

        ``seconds`` gets those of ``prepare``, ``infer`` and ``finish``, and all waits as ``queue``.

        Raises the ServiceErrors of the stages, and SegmentationFailed for any other error and for a
        stage that runs longer than the limit.
        """
        job = Job(work)
        with self._lock:
            if self._is_closed:
                raise asyncio.CancelledError
            if self.hanging_stage is not None:
                raise ServiceBusy(
                    f"an image hangs in the stage {self.hanging_stage}, the service restarts"
                )
            self._waiting.put(work.caller, job)
        self._pump()
        try:
            result = await self._result_of(job)
        except asyncio.CancelledError:
            self._leave(job)
            raise
        except ServiceError:
            raise
        except Exception as error:
            raise SegmentationFailed(f"{type(error).__name__}: {error}") from error
        seconds.update(job.seconds)
        return result

    async def _result_of(self, job: Job[R]) -> R:
        result = asyncio.wrap_future(job.result)
        limit_s = self._limits.max_stage_s
        while not result.done():
            await asyncio.wait({result}, timeout=min(limit_s / 4, 5.0))
            if not result.done() and (stage := job.stage_over(limit_s)) is not None:
                job.leave()
                self.hanging_stage = stage
                raise SegmentationFailed(f"the stage {stage} did not end within {limit_s:g} s")
        return result.result()

    def _leave(self, job: Job[Any]) -> None:
        """Drop a job that nobody waits for; a running stage ends first and then frees its place."""
        job.leave()
        with self._lock:
            was_waiting = self._waiting.remove(job.work.caller, job)
        if not was_waiting and self._device.remove(job):
            self._end(job)

    def _pump(self) -> None:
        """Start ``prepare`` of the waiting images that the limits let in."""
        while True:
            with self._lock:
                job = self._waiting.peek()
                if job is None or self._is_closed or not self._fits(job):
                    return
                taken = self._waiting.take()
                assert taken is job
                self._ahead.add(job)
                self._working.add(job)
                self._prepare.submit(self._run_prepare, job)

    def _fits(self, job: Job[Any]) -> bool:
        if not self._working:
            return True
        working_bytes = sum(each.work.working_bytes for each in self._working)
        return (
            len(self._ahead) < self._limits.max_ahead
            and len(self._working) < self._limits.max_images
            and working_bytes + job.work.working_bytes <= self._limits.max_working_bytes
        )

    def _run_prepare(self, job: Job[Any]) -> None:
        if job.is_left:
            self._end(job)
            return
        job.begin("prepare")
        try:
            prepared = job.work.prepare()
        except BaseException as error:
            job.end()
            self._end(job, error)
            return
        seconds = job.end()
        if isinstance(prepared, Known):
            self._submit_finish(job, prepared)
            return
        self.times.note("prepare", seconds)
        job.prepared = prepared
        # The check and the adding are one step for close().
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._device.put(job)
        if is_closed:
            job.result.cancel()
            self._end(job)
        elif job.is_left and self._device.remove(job):
            self._end(job)

    def _device_started(self, job: Job[Any]) -> None:
        job.used_device = True
        with self._lock:
            self._ahead.discard(job)
        self._pump()

    def _device_finished(self, job: Job[Any], state: Any, error: BaseException | None) -> None:
        job.prepared = None
        if error is not None:
            self._end(job, error)
        elif job.is_left:
            self._end(job)
        else:
            self._submit_finish(job, state)

    def _submit_finish(self, job: Job[Any], state: Any) -> None:
        with self._lock:
            self._ahead.discard(job)
            self._finish.submit(self._run_finish, job, state)

    def _run_finish(self, job: Job[Any], state: Any) -> None:
        if job.is_left:
            self._end(job)
            return
        job.begin("finish")
        try:
            result = job.work.finish(state)
        except BaseException as error:
            job.end()
            self._end(job, error)
            return
        seconds = job.end()
        if job.used_device:
            self.times.note("finish", seconds)
        self._end(job, None, lambda: job.succeed(result))

    def _end(
        self,
        job: Job[Any],
        error: BaseException | None = None,
        answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Free the job's place, count it, answer it, and let the next ones in."""
        with self._lock:
            self._ahead.discard(job)
            self._working.discard(job)
            if job.used_device:
                self._images_finished += 1
                self.times.note_end(time.monotonic())
            is_last = self._is_closed and not self._working
        if error is not None:
            job.fail(error)
        answer()
        if is_last:
            self._finish.shutdown(wait=False)
        self._pump()
