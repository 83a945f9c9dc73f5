"""Many images at once through an engine that fails, waits and runs out of memory at random."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import SegmentationFailed, ServiceBusy, WrongShape
from samservice.engines.stages import Prepared
from samservice.server.app import Limits, SegmentationService

from .staged_engine import StagedEngine

#: A test that would hang fails instead.
PATIENCE_S = 60.0
STAGES = ("prepare", "infer", "finish")
#: The error of an image, by what its value leaves when divided by 100; the others have none.
ERRORS: dict[int, tuple[str, BaseException]] = {
    1: ("prepare", ValueError("odd")),
    2: ("prepare", MemoryError("host")),
    3: ("infer", RuntimeError("device")),
    4: ("infer", MemoryError("device")),
    5: ("infer", SystemExit(3)),
    6: ("finish", KeyError("state")),
    7: ("finish", MemoryError("host")),
    8: ("finish", KeyboardInterrupt()),
    9: ("prepare", WrongShape("a shape")),
}
TOO_FEW, NO_HASH, NO_MAX_BATCH = 10, 11, 12
ENDS = (np.ndarray, SegmentationFailed, ServiceBusy, WrongShape)
FAILING = {*ERRORS, TOO_FEW, NO_HASH, NO_MAX_BATCH}


class UnluckyEngine(StagedEngine):
    """Fails for the images of ``ERRORS``; each stage lasts a random time below a millisecond."""

    def __init__(self, seed: int, batch: int) -> None:
        super().__init__(batch, prepare=self._meet, infer=self._meet_all, finish=self._meet)
        self._random = random.Random(seed)
        self._running = threading.local()

    def prepare(self, image: np.ndarray, *arguments: Any, **options: Any) -> Any:
        self._running.stage = "prepare"
        made: Prepared = super().prepare(image, *arguments, **options)
        value = int(image.max()) % 100
        key: Any = {NO_HASH: [made.batch_key], NO_MAX_BATCH: "none"}.get(value, made.batch_key)
        return Prepared(made.content, key)

    def infer(self, prepared: Any) -> Any:
        states = super().infer(prepared)
        return [state for state in states if int(state.max()) % 100 != TOO_FEW]

    def finish(self, state: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
        self._running.stage = "finish"
        return super().finish(state, parameters)

    def max_batch(self, batch_key: Any) -> int:
        if batch_key == "none":
            raise LookupError(batch_key)
        return super().max_batch(batch_key)

    def _meet(self, content: np.ndarray) -> None:
        time.sleep(self._random.random() * 1e-3)
        stage, error = ERRORS.get(int(content.max()) % 100, ("", ValueError()))
        if stage == self._running.stage:
            raise error

    def _meet_all(self, contents: list[np.ndarray]) -> None:
        time.sleep(self._random.random() * 1e-3)
        # Now and then, the memory does not suffice for several.
        if len(contents) > 2 and self._random.random() < 0.1:
            raise MemoryError("several")
        for content in contents:
            stage, error = ERRORS.get(int(content.max()) % 100, ("", ValueError()))
            if stage == "infer":
                raise error


@pytest.fixture(params=[False, True], ids=["calm", "busy"])
def busy(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Let threads change often, and optionally keep the interpreter busy."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    ended = threading.Event()

    def count() -> None:
        while not ended.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=count) for _ in range(2 if request.param else 0)]
    for thread in threads:
        thread.start()
    yield request.param
    ended.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval_s)


def pipeline_threads() -> set[threading.Thread]:
    names = ("prepare", "finish", "engine")
    return {each for each in threading.enumerate() if each.name.startswith(names)}


async def call(
    service: SegmentationService, value: int, side: int, level: int, rng: random.Random
) -> np.ndarray | BaseException | None:
    """Return the mask or the error of an image, None if the call was cancelled."""
    image = np.zeros((side, side), np.uint16)
    image[0, 0], image[1, 1] = value, value - 1
    context = {"user": {"id": f"caller {value % 5}"}}
    await asyncio.sleep(rng.random() * 0.2)
    task = asyncio.ensure_future(service.segment_all(image, context=context, level=level))
    if rng.random() < 0.25:
        await asyncio.sleep(rng.random() * 0.05)
        task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception() or task.result()


@pytest.mark.parametrize("seed", range(3))
async def test_every_call_ends_and_nothing_is_left(
    seed: int, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = pipeline_threads()
    engine, rng = UnluckyEngine(seed, batch=5), random.Random(seed)
    limits = Limits(max_queue=1000, finish_threads=3, max_working_bytes=12 << 20)
    service = SegmentationService(engine, limits)
    asked = [
        (value, rng.randrange(3, 6), rng.randrange(4000))
        for value in rng.sample(range(100, 3000), 400)
    ]
    async with asyncio.timeout(PATIENCE_S):
        ends = await asyncio.gather(*(call(service, *each, rng) for each in asked))
    cancelled = 0
    for (value, side, level), end in zip(asked, ends, strict=True):
        if end is None:
            cancelled += 1
        elif value % 100 in FAILING:
            expected = WrongShape if value % 100 == 9 else SegmentationFailed
            assert type(end) is expected
        else:
            mask = np.zeros((side, side), np.uint32)
            mask[0, 0] = value if value > level else 0
            mask[1, 1] = value if value - 1 > level else 0
            np.testing.assert_array_equal(end, mask)
    assert 0 < cancelled < len(asked) / 2
    pipeline = service._pipeline
    async with asyncio.timeout(PATIENCE_S):
        # The stages of cancelled calls go on to their end.
        while pipeline._working or len(pipeline._device._prepared):
            await asyncio.sleep(0.001)
    assert not pipeline._ahead and not len(pipeline._waiting)
    assert service._admission.slots_left(None) == 750 and service.idle_s() > 0
    assert not any(engine._now.values())
    # Each image of the device counts once, however often it was tried.
    assert pipeline.images_finished == len({value for batch in engine.batches for value in batch})
    assert (await service.segment_all(77 * np.eye(2, dtype=np.uint16))).max() == 77
    service.close()
    for thread in pipeline_threads() - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert caplog.messages == []


@pytest.mark.parametrize("ending", ["drain", "drain shortly", "close"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_service_that_ends_amid_images_answers_every_call(
    seed: int, ending: str, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = pipeline_threads()
    engine, rng = UnluckyEngine(seed, batch=5), random.Random(seed)
    service = SegmentationService(engine, Limits(max_queue=1000, finish_threads=3))
    values = rng.sample(range(100, 3000), 200)
    async with asyncio.timeout(PATIENCE_S):
        calls = [asyncio.ensure_future(call(service, value, 3, 0, rng)) for value in values]
        await asyncio.sleep(0.02 + rng.random() * 0.1)
        if ending == "close":
            service.close()
        else:
            await service.drain(PATIENCE_S if ending == "drain" else 0.0)
        ends = await asyncio.gather(*calls)
    for value, end in zip(values, ends, strict=True):
        assert end is None or isinstance(
            end, np.ndarray | SegmentationFailed | ServiceBusy | WrongShape
        )
        if isinstance(end, np.ndarray):
            assert end.max() == value and value % 100 not in FAILING
    assert any(isinstance(end, ServiceBusy) for end in ends)
    pipeline = service._pipeline
    async with asyncio.timeout(PATIENCE_S):
        while pipeline._working:
            await asyncio.sleep(0.001)
    assert not len(pipeline._waiting) and not len(pipeline._device._prepared)
    assert service.idle_s() > 0
    service.close()
    for thread in pipeline_threads() - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert caplog.messages == []
