"""The stages of the images in the service: what overlaps, batches, failures, cancellation."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import SegmentationFailed, ServiceBusy, StageHung
from samservice.engines.stages import Prepared
from samservice.server import work
from samservice.server.app import Limits, SegmentationService
from samservice.server.engine_work import EngineWork
from samservice.server.pipeline import Hang, Pipeline, PipelineLimits
from samservice.server.stage_times import Workers, depth
from samservice.server.state_cache import StateCache

from .staged_engine import StagedEngine

#: A test that would hang fails instead.
PATIENCE_S = 20.0

Serve = Callable[..., SegmentationService]


def image(value: int, side: int = 4) -> np.ndarray:
    """Return an image whose largest value is ``value``."""
    pixels = np.zeros((side, side), np.uint16)
    pixels[0, 0] = value
    return pixels


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    made: list[SegmentationService] = []

    def make(engine: Any, **limits: Any) -> SegmentationService:
        made.append(SegmentationService(engine, Limits(**({"finish_threads": 4} | limits))))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Gate:
    """Holds a stage until a test opens it; stages that wait for it are counted."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = 0

    def __call__(self, content: Any) -> None:
        self.waiting += 1
        assert self.opened.wait(PATIENCE_S)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.waiting < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Any:
    made = Gate()
    yield made
    made.opened.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def of(name: str) -> dict[str, Any]:
    """Return the context of a caller."""
    return {"user": {"id": name}}


async def test_finishing_overlaps_and_the_device_has_one_thread(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine(finish=gate)
    service = serve(engine)
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in range(1, 13)]
    await gate.until(4)
    # The device went on while four images were being finished.
    await until(lambda: engine.entered["infer"] >= 5)
    gate.opened.set()
    masks = await asyncio.gather(*calls)
    assert [int(mask.max()) for mask in masks] == list(range(1, 13))
    assert engine.most_at_once["infer"] == 1 and engine.most_at_once["finish"] == 4
    assert len(engine.device_threads) == 1


async def test_waiting_images_that_fit_share_a_batch_and_others_do_not(
    serve: Serve, gate: Gate
) -> None:
    engine = StagedEngine(batch=4, infer=gate)
    service = serve(engine)
    calls = [asyncio.create_task(service.segment_all(image(1)))]
    await gate.until(1)
    calls += [
        asyncio.create_task(service.segment_all(image(n, side)))
        for n, side in ((2, 4), (3, 5), (4, 4), (5, 5))
    ]
    await until(lambda: len(service._pipeline._device._prepared) == 4)
    gate.opened.set()
    assert [int(mask.max()) for mask in await asyncio.gather(*calls)] == [1, 2, 3, 4, 5]
    assert sorted(map(sorted, engine.batches)) == [[1], [2, 4], [3, 5]]


async def test_callers_are_served_in_turn(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine(infer=gate)
    service = serve(engine)
    calls = [asyncio.create_task(service.segment_all(image(n), context=of("a"))) for n in (1, 2, 3)]
    await gate.until(1)
    for caller, first in (("a", 4), ("b", 11), ("c", 21)):
        calls += [
            asyncio.create_task(service.segment_all(image(first + n), context=of(caller)))
            for n in range(3)
        ]
    await asyncio.sleep(0.05)
    gate.opened.set()
    await asyncio.gather(*calls)
    order = [each for batch in engine.batches for each in batch]
    # Nobody waits for more than the images that were in the pipeline already and its turn.
    positions = {value: at for at, value in enumerate(order)}
    assert max(positions[11], positions[21]) < positions[6]


def fails_for(*values: int, error: Callable[[], BaseException]) -> Callable[[Any], None]:
    def check(content: Any) -> None:
        contents = content if isinstance(content, list) else [content]
        if any(int(each.max()) in values for each in contents):
            raise error()

    return check


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (lambda: ValueError("odd"), "ValueError: odd"),
        (lambda: MemoryError("device"), "MemoryError: device"),
        (lambda: SystemExit(3), "SystemExit: 3"),
        (lambda: SegmentationFailed("no"), "no"),
    ],
)
async def test_an_error_in_a_stage_fails_its_image_alone(
    serve: Serve, stage: str, error: Callable[[], BaseException], text: str
) -> None:
    engine = StagedEngine(batch=8, **{stage: fails_for(3, 6, error=error)})
    service = serve(engine)
    found = await asyncio.gather(
        *(service.segment_all(image(n)) for n in range(1, 9)), return_exceptions=True
    )
    for n, each in enumerate(found, start=1):
        if n in (3, 6):
            assert isinstance(each, SegmentationFailed) and text in str(each)
        else:
            assert isinstance(each, np.ndarray) and each.max() == n
    assert (await service.segment_all(image(9))).max() == 9


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_results_is_tried_in_halves(serve: Serve, count: int) -> None:
    def results(contents: list[np.ndarray]) -> list[np.ndarray] | None:
        return None if len(contents) == 1 else contents[:1] * count

    engine = StagedEngine(batch=2, infer=results)
    service = serve(engine)
    masks = await asyncio.gather(*(service.segment_all(image(n)) for n in range(1, 7)))
    assert [int(mask.max()) for mask in masks] == [1, 2, 3, 4, 5, 6]


async def test_a_single_image_with_too_few_results_is_named(serve: Serve) -> None:
    service = serve(StagedEngine(infer=lambda contents: []))
    with pytest.raises(SegmentationFailed, match="infer returned 0 results for 1 images"):
        await service.segment_all(image(1))


async def test_after_exhausted_memory_the_batches_are_smaller(serve: Serve) -> None:
    def exhausted(contents: list[np.ndarray]) -> None:
        if len(contents) > 2:
            raise MemoryError("device")

    engine = StagedEngine(batch=4, infer=exhausted)
    service = serve(engine)
    for _ in range(2):
        masks = await asyncio.gather(*(service.segment_all(image(n)) for n in range(1, 17)))
        assert [int(mask.max()) for mask in masks] == list(range(1, 17))
    too_large = [len(batch) for batch in engine.batches if len(batch) > 2]
    assert len(too_large) <= 1


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
async def test_a_call_cancelled_in_a_stage_frees_its_place_when_the_stage_ends(
    serve: Serve, gate: Gate, stage: str
) -> None:
    engine = StagedEngine(**{stage: gate})
    service = serve(engine, max_queue=2)
    call = asyncio.create_task(service.segment_all(image(1)))
    await gate.until(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await service.probe(b""))["places_left"] == 2
    gate.opened.set()
    assert (await service.segment_all(image(2))).max() == 2
    later = {"prepare": ("infer", "finish"), "infer": ("finish",), "finish": ()}[stage]
    assert all(engine.entered[name] == 1 for name in later)
    await until(lambda: not service._pipeline._working)


def holds(gate: Gate, *values: int) -> Callable[[Any], None]:
    """Return a stage that waits for the gate with an image of these values."""

    def check(content: Any) -> None:
        contents = content if isinstance(content, list) else [content]
        if any(int(each.max()) in values for each in contents):
            gate(content)

    return check


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
async def test_a_stage_that_hangs_fails_its_image_and_the_service_takes_no_more(
    serve: Serve, gate: Gate, stage: str
) -> None:
    service = serve(StagedEngine(**{stage: gate}), max_stage_s=1.0)
    assert service.hang() is None
    with pytest.raises(StageHung, match=rf"stage {stage} did not end within 1 s"):
        await service.segment_all(image(1))
    with pytest.raises(ServiceBusy, match=rf"hangs in the stage {stage}, the service restarts"):
        await service.segment_all(image(2))
    assert service.hang() == Hang(stage, 1)
    assert (await service.probe(b""))["places_left"] == 0
    async with asyncio.timeout(PATIENCE_S):
        await service.drain(PATIENCE_S)


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
async def test_a_hang_is_noticed_when_its_caller_has_gone(
    serve: Serve, gate: Gate, stage: str
) -> None:
    service = serve(StagedEngine(**{stage: gate}), max_stage_s=0.2)
    call = asyncio.create_task(service.segment_all(image(1)))
    await gate.until(1)
    call.cancel()
    await asyncio.wait({call})
    await until(lambda: service.hang() is not None)
    with pytest.raises(ServiceBusy, match="hangs"):
        await service.segment_all(image(2))


async def test_the_time_in_which_the_process_was_stopped_does_not_count(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(StagedEngine(infer=gate), max_stage_s=100.0)
    call = asyncio.create_task(service.segment_all(image(1)))
    await gate.until(1)
    began_s, elapsed_s = time.monotonic(), 0.0
    monkeypatch.setattr(work.time, "monotonic", lambda: began_s + elapsed_s)
    # As after a SIGSTOP of ten minutes: nothing was checked in between.
    elapsed_s = 600.0
    assert service.hang() is None
    for elapsed_s in range(605, 695, 5):  # noqa: B007
        assert service.hang() is None
    # Then it runs for the limit itself.
    elapsed_s = 702.0
    assert service.hang() == Hang("infer", 1)
    with pytest.raises(StageHung):
        await call


@pytest.mark.parametrize(
    ("stage", "are_busy"),
    [
        # Image 1 hangs. 2 to 5 are in the pipeline then, and 6 to 8 wait before it.
        ("prepare", {6, 7, 8}),
        ("infer", {2, 3, 4, 5, 6, 7, 8}),
        ("finish", {6, 7, 8}),
    ],
)
async def test_after_a_hang_the_images_in_other_stages_end_and_the_waiting_ones_are_told(
    gate: Gate, stage: str, are_busy: set[int]
) -> None:
    others = Gate()
    engine = StagedEngine(**{stage: holds(gate, 1)})
    if stage != "infer":
        # The others are held behind the hang, so that the pipeline is full.
        engine.on["finish"] = lambda state: (gate if state.max() == 1 else others)(state)
    workers = Workers(prepare=2, infer=1, finish=5)
    pipeline = Pipeline(PipelineLimits(workers, 2, 5 << 20, 1.5), staged=True)
    images = EngineWork(engine, 1 << 20, 1 << 20, StateCache(0))

    def start(n: int) -> asyncio.Task[Any]:
        made = images.image("a", image(n), (4, 4), "YX", {}, None, False)
        return asyncio.create_task(pipeline.run(made, {}))

    calls = [start(1)]
    await gate.until(1)
    # The others are in their stages for less than the limit when the first one is over it.
    await asyncio.sleep(0.7)
    calls += [start(n) for n in range(2, 9)]
    if stage != "infer":
        await others.until(4)
    await until(lambda: pipeline.check_stages() is not None)
    others.opened.set()
    await pipeline.drain(PATIENCE_S)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ends[0], StageHung)
    assert {n for n, end in enumerate(ends, 1) if isinstance(end, ServiceBusy)} == are_busy
    for n in {2, 3, 4, 5} - are_busy:
        assert ends[n - 1].mask.max() == n  # type: ignore[union-attr]
    pipeline.close()


async def test_of_a_batch_that_hangs_no_image_is_to_blame(serve: Serve, gate: Gate) -> None:
    first = Gate()
    engine = StagedEngine(batch=4, infer=lambda each: (first if len(each) == 1 else gate)(each))
    service = serve(engine, max_stage_s=1.0)
    calls = [asyncio.create_task(service.segment_all(image(1)))]
    await first.until(1)
    calls += [asyncio.create_task(service.segment_all(image(n))) for n in (2, 3, 4)]
    await until(lambda: len(service._pipeline._device._prepared) == 3)
    first.opened.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ends[0], np.ndarray)
    assert {type(each) for each in ends[1:]} == {SegmentationFailed}
    assert re.search("did not end within 1 s, .*, for 3 images together", str(ends[1]))
    assert service.hang() == Hang("infer", 3)


async def test_an_image_of_a_batch_counts_its_share(gate: Gate) -> None:
    """So that the seconds between two images are right, and the sum is that of the whole way."""
    wait = [gate, lambda _: time.sleep(0.4)]
    engine = StagedEngine(batch=4, infer=lambda contents: wait[len(contents) > 1](contents))
    workers = Workers(prepare=1, infer=4, finish=1)
    pipeline = Pipeline(PipelineLimits(workers, 5, 1 << 30, 60.0), staged=True)
    images = EngineWork(engine, 1 << 20, 1 << 20, StateCache(0))
    seconds: list[dict[str, float]] = [{} for _ in range(5)]

    def start(n: int) -> asyncio.Task[Any]:
        made = images.image("a", image(n), (4, 4), "YX", {}, None, False)
        return asyncio.create_task(pipeline.run(made, seconds[n - 1]))

    calls = [start(1)]
    await gate.until(1)
    calls += [start(n) for n in range(2, 6)]
    await until(lambda: len(pipeline._device._prepared) == 4)
    gate.opened.set()
    await asyncio.gather(*calls)
    assert [len(batch) for batch in engine.batches] == [1, 4]
    for each in seconds[1:]:
        assert each["infer"] >= 0.1 and each["queue"] >= 3 * each["infer"]
        assert sum(each.values()) >= 0.4
    pipeline.close()


async def test_the_limit_of_a_batch_is_kept(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine(batch=4, infer=gate)
    service = serve(engine, max_batch=2)
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in range(1, 6)]
    await gate.until(1)
    gate.opened.set()
    await asyncio.gather(*calls)
    assert max(map(len, engine.batches)) == 2


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
async def test_draining_ends_what_is_in_the_pipeline_and_refuses_what_waits(
    serve: Serve, gate: Gate, stage: str
) -> None:
    engine = StagedEngine(**{stage: gate})
    service = serve(engine, finish_threads=1)
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in range(1, 9)]
    await gate.until(1)
    await asyncio.sleep(0.05)
    inside = len(service._pipeline._working)
    draining = asyncio.create_task(service.drain(PATIENCE_S))
    await asyncio.sleep(0)
    with pytest.raises(ServiceBusy, match="the service ends"):
        await service.segment_all(image(9))
    assert not draining.done() and inside < len(calls)
    gate.opened.set()
    await draining
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [each.max() for each in ends if isinstance(each, np.ndarray)] == [*range(1, inside + 1)]
    assert sum(isinstance(each, ServiceBusy) for each in ends) == len(calls) - inside


async def test_draining_ends_in_time_and_every_call_has_an_answer(serve: Serve, gate: Gate) -> None:
    service = serve(StagedEngine(infer=gate))
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in range(1, 9)]
    await gate.until(1)
    async with asyncio.timeout(PATIENCE_S):
        await service.drain(0.1)
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ends} == {ServiceBusy}


class Traced(np.ndarray):
    """An image that can be watched by weak references."""


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish", None])
async def test_nothing_keeps_an_image_that_has_ended(stage: str | None) -> None:
    """Not even a failed one, whose traceback has its frames, before garbage is collected."""

    def fail(_: Any) -> None:
        raise ValueError("odd")

    engine = StagedEngine(**({stage: fail} if stage else {}))
    workers = Workers(prepare=1, infer=2, finish=1)
    pipeline = Pipeline(PipelineLimits(workers, 2, 1 << 20, 60.0), staged=True)
    images = EngineWork(engine, 1 << 20, 1 << 20, StateCache(0))
    gc.collect()
    gc.disable()
    try:
        given = image(1).view(Traced)
        watched = weakref.ref(given)
        made = images.image("a", given, (4, 4), "YX", {}, None, False)
        del given
        with suppress(SegmentationFailed):
            await pipeline.run(made, {})
        del made
        await until(lambda: watched() is None)
    finally:
        gc.enable()
        pipeline.close()


@pytest.mark.parametrize(
    ("keys", "max_batch", "text"),
    [
        ([[1]], None, "unhashable"),
        ([1], lambda key: 1 // 0, "ZeroDivisionError"),
        ([1], lambda key: "many", "TypeError"),
    ],
)
async def test_a_wrong_batch_fails_its_image_and_not_the_thread_of_the_device(
    serve: Serve, keys: list[Any], max_batch: Any, text: str
) -> None:
    engine = StagedEngine(batch=4)
    given, largest = engine.prepare, engine.max_batch
    engine.prepare = lambda *each: Prepared(given(*each).content, *keys)  # type: ignore
    engine.max_batch = max_batch or largest  # type: ignore[method-assign]
    service = serve(engine)
    with pytest.raises(SegmentationFailed, match=text):
        await service.segment_all(image(1))
    engine.prepare, engine.max_batch = given, largest  # type: ignore[method-assign]
    assert (await service.segment_all(image(2))).max() == 2


async def test_a_failed_batch_holds_no_memory_while_its_halves_are_tried(serve: Serve) -> None:
    held: list[weakref.ref[np.ndarray]] = []
    alive: list[bool] = []
    gate = Gate()

    def infer(contents: list[np.ndarray]) -> None:
        if contents[0].max() == 1:
            gate(contents)
        elif len(contents) > 1:
            on_device = np.stack(contents)
            held.append(weakref.ref(on_device))
            raise MemoryError("device")
        else:
            alive.extend(each() is not None for each in held)

    service = serve(StagedEngine(batch=2, infer=infer))
    calls = [asyncio.create_task(service.segment_all(image(1)))]
    await gate.until(1)
    calls += [asyncio.create_task(service.segment_all(image(n))) for n in (2, 3)]
    await until(lambda: len(service._pipeline._device._prepared) == 2)
    gate.opened.set()
    await asyncio.gather(*calls)
    assert alive == [False, False]


async def test_bytes_bound_what_is_in_the_pipeline_and_a_larger_image_goes_alone(
    serve: Serve, gate: Gate
) -> None:
    engine = StagedEngine(finish=gate)
    service = serve(engine, max_working_bytes=2 << 20)
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in range(1, 6)]
    await gate.until(2)
    await asyncio.sleep(0.05)
    assert engine.entered["prepare"] == 2
    gate.opened.set()
    assert [int(mask.max()) for mask in await asyncio.gather(*calls)] == [1, 2, 3, 4, 5]
    small = serve(StagedEngine(), max_working_bytes=1)
    assert (await small.segment_all(image(7))).max() == 7


async def test_bytes_bound_what_waits(serve: Serve, gate: Gate) -> None:
    service = serve(StagedEngine(infer=gate), max_queue_bytes=100)
    calls = [asyncio.create_task(service.segment_all(image(n))) for n in (1, 2, 3)]
    await gate.until(1)
    with pytest.raises(ServiceBusy, match="at most 0 MB with this image"):
        await service.segment_all(image(4))
    gate.opened.set()
    await asyncio.gather(*calls)
    assert (await service.segment_all(image(5, side=40))).max() == 5


async def test_a_probe_tells_how_many_images_are_ahead(serve: Serve, gate: Gate) -> None:
    service = serve(StagedEngine(infer=gate))
    calls = [
        asyncio.create_task(service.segment_all(image(n), context=of(caller)))
        for n, caller in enumerate("aaaaab", start=1)
    ]
    await asyncio.sleep(0)
    ahead = {name: (await service.probe(b"", context=of(name)))["images_ahead"] for name in "abc"}
    # Callers are served in turn: a waits for its own five and for b's one.
    assert ahead == {"a": 6, "b": 3, "c": 2}
    gate.opened.set()
    await asyncio.gather(*calls)


async def test_describe_has_the_stages_and_their_depth(serve: Serve) -> None:
    service = serve(StagedEngine())
    before = (await service.describe())["pipeline"]
    assert before["seconds"] is before["device_busy"] is before["images_per_s"] is None
    assert before["depth"] == 3
    for n in (1, 2, 3):
        await service.segment_all(image(n))
    described = await service.describe()
    after = described["pipeline"]
    assert set(after["seconds"]) == {"prepare", "infer", "finish"}
    assert 0 < after["device_busy"] <= 1 and after["images_per_s"] > 0
    assert described["limits"]["in_parallel"] == after["depth"] >= 1


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [
        # (prepare, infer, finish) of one image, by hand: the way through over the interval.
        ((0.0, 0.06, 0.46), (2, 1, 8), 9),
        ((0.04, 0.06, 0.07), (2, 1, 8), 3),
        ((0.04, 0.06, 0.46), (2, 1, 2), 3),
        ((0.0, 0.06, 0.0), (1, 1, 1), 1),
        ((0.0, 0.0, 0.0), (1, 1, 1), 3),
        ((0.04, 0.06, 0.07), (2, 4, 8), 6),
        ((0.1, 0.1, 0.1), (1, 1, 1), 3),
    ],
)
def test_the_depth_keeps_the_slowest_stage_busy(
    seconds: tuple[float, ...], workers: tuple[int, ...], expected: int
) -> None:
    stages = dict(zip(("prepare", "infer", "finish"), seconds, strict=True))
    assert depth(stages, Workers(*workers)) == expected


async def test_a_thousand_mixed_images_give_the_masks_of_one_by_one(serve: Serve) -> None:
    random = np.random.default_rng(3)
    engine, single = StagedEngine(batch=5, infer=lambda _: time.sleep(0.001)), StagedEngine()
    service = serve(engine, max_queue=2000)
    images = [
        (image(1 + int(random.integers(1000)), int(random.integers(3, 9))),
         {"level": int(random.integers(500)), "scale": int(random.integers(1, 3))})
        for _ in range(1000)
    ]  # fmt: skip
    callers = [of(f"caller {n % 7}") for n in range(1000)]
    masks = await asyncio.gather(
        *(
            service.segment_all(pixels, context=caller, **parameters)
            for (pixels, parameters), caller in zip(images, callers, strict=True)
        )
    )
    for (pixels, parameters), mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(mask, single.segment(pixels, "YX", parameters))
    assert max(map(len, engine.batches)) > 1
