"""The pipeline of the engine: images in different stages at the same time, bounded in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..contract.errors import SegmentationFailed, ServiceBusy, ServiceError, StageHung
from ..engines.stages import Prepared
from .device import Device
from .round_robin import RoundRobin
from .stage_times import StageTimes, Workers, depth
from .thread_pool import ThreadPool
from .work import Job, Known, Work

R = TypeVar("R")

SERVICE_ENDS = "the service ends, try again later"

_DRAIN_CHECK_S = 0.02
#: Stages are checked at least so often while a call waits...
_CHECK_S = 5.0
#: ...so after a longer time without a check, the process itself was stopped.
_MAX_CHECK_GAP_S = 30.0


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


@dataclass(frozen=True)
class Hang:
    """A stage that did not end.

    Attributes:
        stage: Its name.
        batch_size: How many images it had; which of them hangs is unknown.
    """

    stage: str
    batch_size: int


class Pipeline:
    """Carries each work through ``prepare``, ``infer`` and ``finish``.

    An image waits before ``prepare`` until images and bytes in the pipeline are below the limits.
    Callers are served in turn, there and before the device. An image that has its state already
    goes to ``finish`` alone; it waits for bytes and a thread of ``finish``, not for the device.
    """

    def __init__(self, limits: PipelineLimits, staged: bool) -> None:
        """``staged`` is False for an engine with ``segment`` alone: one image at a time."""
        self.times = StageTimes()
        self._limits = limits
        self._staged = staged
        self._prepare = ThreadPool(limits.workers.prepare, "prepare")
        self._finish = ThreadPool(limits.workers.finish, "finish")
        self._device = Device(self.times, self._device_started, self._device_finished)
        self._lock = threading.Lock()
        self._waiting: RoundRobin[Job[Any]] = RoundRobin()
        #: Those that have their state already, and those of them between then and their end.
        self._waiting_with_state: RoundRobin[Job[Any]] = RoundRobin()
        self._with_state: set[Job[Any]] = set()
        self._ahead: set[Job[Any]] = set()
        self._working: set[Job[Any]] = set()
        self._images_finished = 0
        self._is_closed = False
        #: Why further images are not accepted.
        self._refusal: str | None = None
        #: Why nothing gets to the device any more: its call hangs, or it is closed.
        self._device_refusal: str | None = None
        self._hang: Hang | None = None
        self._checked_s = time.monotonic()

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

    @property
    def accepts(self) -> bool:
        """Whether further images are accepted."""
        return self._refusal is None

    def check_stages(self) -> Hang | None:
        """Fail the images whose stage runs for longer than the limit; return the first such hang.

        A thread cannot be ended, so the pipeline accepts no more images after a hang, and the
        process has to be replaced. The images in other stages go on.
        """
        limit_s = self._limits.max_stage_s
        now_s = time.monotonic()
        with self._lock:
            stopped_s, self._checked_s = now_s - self._checked_s, now_s
            if stopped_s > _MAX_CHECK_GAP_S:
                # This process did not run itself (SIGSTOP, a paused machine), nor did its stages.
                for job in self._working:
                    job.excluded_s += stopped_s
            over = [
                (job, stage)
                for job in self._working
                if not job.hangs and (stage := job.stage_over(limit_s)) is not None
            ]
            for job, _ in over:
                job.hangs = True
        for job, stage in over:
            job.leave()
            text = f"the stage {stage} did not end within {limit_s:g} s, the service's max_stage_s"
            if stage == "infer" and job.batch_size > 1:
                # The other images of the batch are not to blame, and nobody knows which one is.
                job.fail(SegmentationFailed(f"{text}, for {job.batch_size} images together"))
            else:
                job.fail(StageHung(text))
        for job, stage in over:
            if self._hang is None:
                self._hang = Hang(stage, job.batch_size if stage == "infer" else 1)
            reason = f"an image hangs in the stage {stage}, the service restarts"
            self.stop_accepting(reason)
            if stage == "infer":
                self._refuse_device(reason)
        return self._hang

    def stop_accepting(self, reason: str) -> None:
        """Refuse further images, and those that wait before ``prepare``, with ServiceBusy."""
        with self._lock:
            reason = self._refusal = self._refusal or reason
            waiting = [*self._waiting, *self._waiting_with_state]
            self._waiting, self._waiting_with_state = RoundRobin(), RoundRobin()
        for job in waiting:
            job.leave()
            job.fail(ServiceBusy(reason))

    async def drain(self, limit_s: float, reason: str = SERVICE_ENDS) -> None:
        """Stop accepting, and return when all images in the pipeline have ended.

        Those that have not after ``limit_s`` get ServiceBusy.
        """
        self.stop_accepting(reason)
        deadline_s = time.monotonic() + limit_s
        while self._images_left() and time.monotonic() < deadline_s:
            await asyncio.sleep(_DRAIN_CHECK_S)
            self.check_stages()
        for job in self._images_left():
            job.fail(ServiceBusy(reason))
            self._leave(job)

    def close(self) -> None:
        """Let the running stages end; the images that wait before the device get ServiceBusy."""
        self.stop_accepting(SERVICE_ENDS)
        with self._lock:
            self._is_closed = True
            waiting = [job for job in self._ahead if job.running is None]
            self._prepare.close()
            if not self._working:
                self._finish.close()
        for job in waiting:
            job.leave()
            job.fail(ServiceBusy(SERVICE_ENDS))
        self._refuse_device(SERVICE_ENDS)
        self._device.close()

    async def run(self, work: Work[R], seconds: dict[str, float]) -> R:
        """Carry ``work`` through the stages and return what its ``finish`` returns.

        ``seconds`` gets those of ``prepare``, ``infer`` (its share of a batch) and ``finish``, and
        all waits as ``queue``.

        Raises the ServiceErrors of the stages, SegmentationFailed for any other error, StageHung
        for a stage that runs longer than the limit, and ServiceBusy while no image is accepted.
        """
        self.check_stages()
        job = Job(work)
        with self._lock:
            if self._refusal is not None:
                raise ServiceBusy(self._refusal)
            self._queue_of(job).put(work.caller, job)
        self._pump()
        try:
            result = await self._result_of(job)
            seconds.update(job.seconds)
            return result
        except asyncio.CancelledError:
            # Nobody looks at an error of it any more.
            job.result.cancel()
            self._leave(job)
            raise
        finally:
            # The traceback of its error would refer to the error, and keep the image alive.
            del job

    async def _result_of(self, job: Job[R]) -> R:
        result = asyncio.wrap_future(job.result)
        # A call may be cancelled in the moment in which its error comes.
        result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        check_s = min(self._limits.max_stage_s / 20, _CHECK_S)
        try:
            while not result.done():
                await asyncio.wait({result}, timeout=check_s)
                self.check_stages()
            return result.result()
        finally:
            del result, job

    def _images_left(self) -> list[Job[Any]]:
        """Return the images in the pipeline that may still end."""
        with self._lock:
            return [job for job in self._working if not job.hangs]

    def _leave(self, job: Job[Any]) -> None:
        """Drop a job that nobody waits for; a running stage ends first and then frees its place."""
        job.leave()
        with self._lock:
            was_waiting = self._queue_of(job).remove(job.work.caller, job)
        if not was_waiting and self._device.remove(job):
            self._end(job)

    def _refuse_device(self, reason: str) -> None:
        """Fail the prepared images, and those that will be, with ServiceBusy."""
        with self._lock:
            self._device_refusal = self._device_refusal or reason
        for job in self._device.remove_all():
            self._end(job, ServiceBusy(reason))

    def _pump(self) -> None:
        """Start the first stage of the waiting images that the limits let in."""
        while True:
            with self._lock:
                job = self._take_next()
                if job is None:
                    return
                self._working.add(job)
                if job.work.prepare is None:
                    self._with_state.add(job)
                    self._finish.submit(partial(self._run_finish, job, None))
                else:
                    self._ahead.add(job)
                    self._prepare.submit(partial(self._run_prepare, job, job.work.prepare))

    def _queue_of(self, job: Job[Any]) -> RoundRobin[Job[Any]]:
        return self._waiting if job.work.prepare is not None else self._waiting_with_state

    def _take_next(self) -> Job[Any] | None:
        """Take the next waiting image that the limits let in.

        Those for the device go first, because it must not wait. The others need no place before it.
        """
        job, queue = self._waiting.peek(), self._waiting
        for_device = len(self._working) - len(self._with_state)
        if (
            job is None
            or len(self._ahead) >= self._limits.max_ahead
            or for_device >= self._limits.max_images
        ):
            job, queue = self._waiting_with_state.peek(), self._waiting_with_state
            if len(self._with_state) >= self._limits.workers.finish:
                return None
        # A large image waits for its bytes, and no other one takes them meanwhile.
        return queue.take() if job is not None and self._fits(job) else None

    def _fits(self, job: Job[Any]) -> bool:
        if not self._working:
            return True
        working_bytes = sum(each.work.working_bytes for each in self._working)
        return working_bytes + job.work.working_bytes <= self._limits.max_working_bytes

    def _run_prepare(self, job: Job[Any], prepare: Callable[[], Prepared | Known]) -> None:
        if job.is_left:
            self._end(job)
            return
        job.begin("prepare")
        try:
            prepared = prepare()
            if isinstance(prepared, Prepared) and prepared.batch_key is not None:
                # The engine's own code: it must not fail in the thread of the device.
                hash(prepared.batch_key)
                largest = min(job.work.max_batch(prepared.batch_key), self._limits.workers.infer)
                job.max_batch = max(largest, 1)
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
        # The check and the adding are one step for _refuse_device().
        with self._lock:
            refusal = self._device_refusal
            if refusal is None:
                self._device.put(job)
        if refusal is not None:
            self._end(job, ServiceBusy(refusal))
        elif job.is_left and self._device.remove(job):
            self._end(job)

    def _device_started(self, job: Job[Any]) -> None:
        job.used_device = True
        with self._lock:
            self._ahead.discard(job)
        self._pump()

    def _device_finished(self, job: Job[Any], state: Any, error: ServiceError | None) -> None:
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
            self._finish.submit(partial(self._run_finish, job, state))

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
            if job in self._with_state:
                self._with_state.discard(job)
                self._images_finished += 1
            if job.used_device:
                self._images_finished += 1
                self.times.note_end(time.monotonic())
            is_last = self._is_closed and not self._working
        if error is not None:
            job.fail(error)
        answer()
        if is_last:
            self._finish.close()
        self._pump()
