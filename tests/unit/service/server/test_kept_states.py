"""Requests with ``keep_state``, and requests that name an image by its digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import (
    ImageTooLarge,
    ServiceBusy,
    StateNotKept,
    WrongAxes,
    WrongParameter,
    WrongShape,
)
from samservice.contract.image_reference import image_reference, pixels_sha256
from samservice.contract.wire import pack_array, unpack_array
from samservice.server.app import Limits, SegmentationService
from samservice.server.engine_work import CONSTANT_IMAGE_NOTE, EngineWork
from samservice.server.state_cache import StateCache, StateKey

from .staged_engine import StagedEngine
from .test_app import ScriptedEngine
from .test_pipeline import Gate, until

PATIENCE_S = 20.0
IMAGE = np.arange(48, dtype=np.uint16).reshape(6, 8)
DIGEST = pixels_sha256(IMAGE, "YX")
REFERENCE = image_reference(DIGEST, (6, 8))

Serve = Callable[..., SegmentationService]


def context(name: str, **user: Any) -> dict[str, Any]:
    return {"user": {"id": name, **user}}


ADA, BOB = context("ada"), context("bob")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    made: list[SegmentationService] = []

    def make(engine: Any, **limits: Any) -> SegmentationService:
        made.append(SegmentationService(engine, Limits(**({"finish_threads": 4} | limits))))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def gate() -> Any:
    made = Gate()
    yield made
    made.opened.set()


def sent(image: np.ndarray = IMAGE) -> dict[str, Any]:
    return pack_array(image, "raw")


def labels(answer: dict[str, Any]) -> np.ndarray:
    return unpack_array(answer["mask"], 1 << 20)


async def test_other_parameters_of_finish_use_the_state(serve: Serve) -> None:
    engine = StagedEngine()
    service = serve(engine)
    first = await service.segment_all(sent(), keep_state=True, context=ADA, level=9)
    assert first["state_kept"] is True
    for level in (0, 20, 40):
        again = await service.segment_all(REFERENCE, axes="YX", context=ADA, level=level)
        whole = await service.segment_all(sent(), context=ADA, level=level)
        np.testing.assert_array_equal(labels(again), labels(whole))
        assert again["object_count"] == whole["object_count"]
        assert again["made_by"] == whole["made_by"]
        assert set(again["seconds"]) == {"queue", "finish"}
        assert "state_kept" not in whole
    # The first one, and those that were sent whole.
    assert engine.entered == {"prepare": 4, "infer": 4, "finish": 7}
    assert service.images_finished == 7
    assert (await service.describe(context=ADA))["recent"]["images"] == 4


MISSES: dict[str, dict[str, Any]] = {
    "another caller": {"context": BOB},
    "a caller who is not known": {"context": None},
    "another parameter of infer": {"scale": 2},
    "other axes": {"axes": "CYX", "image": image_reference(DIGEST, (1, 6, 8))},
    "another shape": {"image": image_reference(DIGEST, (8, 6))},
    "another image": {"image": image_reference("0" * 64, (6, 8))},
}


@pytest.mark.parametrize("changes", MISSES.values(), ids=MISSES)
async def test_a_state_is_kept_for_its_request_alone(serve: Serve, changes: dict[str, Any]) -> None:
    service = serve(StagedEngine())
    await service.segment_all(sent(), keep_state=True, context=ADA)
    await service.segment_all(REFERENCE, context=ADA)
    asked = {"image": REFERENCE, "context": ADA} | changes
    with pytest.raises(StateNotKept):
        await service.segment_all(asked.pop("image"), **asked)


NOT_KEPT: dict[str, tuple[Callable[[], Any], dict[str, Any], Any]] = {
    "an engine without stages": (ScriptedEngine, {}, ADA),
    "no bytes for states": (StagedEngine, {"max_state_bytes": 0}, ADA),
    # 48 values of 8 bytes are 384.
    "a state that is too large": (StagedEngine, {"max_state_bytes": 500}, ADA),
    "an anonymous caller": (StagedEngine, {}, context("anonymous-1", is_anonymous=True)),
    "a caller who is not known": (StagedEngine, {}, None),
}


@pytest.mark.parametrize(("engine", "limits", "caller"), NOT_KEPT.values(), ids=NOT_KEPT)
async def test_a_state_that_is_not_kept(
    serve: Serve, engine: Callable[[], Any], limits: dict[str, Any], caller: Any
) -> None:
    service = serve(engine(), **limits)
    answer = await service.segment_all(sent(), keep_state=True, context=caller)
    assert answer["state_kept"] is False
    assert labels(answer).any()
    with pytest.raises(StateNotKept):
        await service.segment_all(REFERENCE, context=caller)


async def test_describe_tells_whether_states_are_kept(serve: Serve) -> None:
    class Silent(StagedEngine):
        def describe(self) -> dict[str, Any]:
            described = super().describe()
            del described["inference_parameters"]
            return described

    async def states(service: SegmentationService) -> bool:
        return bool((await service.describe(context=ADA))["states"])

    assert await states(serve(StagedEngine()))
    assert not await states(serve(StagedEngine(), max_state_bytes=0))
    assert not await states(serve(ScriptedEngine(), finish_threads=1))
    assert not await states(serve(Silent()))


IMAGES = {
    "bool": IMAGE % 2 == 0,
    "big-endian": IMAGE.astype(">u2"),
    "float": IMAGE.astype(np.float32),
    "not contiguous": np.asfortranarray(IMAGE),
    "constant": np.full((6, 8), 7, np.uint8),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
async def test_the_digest_is_that_of_the_values(serve: Serve, image: np.ndarray) -> None:
    service = serve(StagedEngine())
    whole = await service.segment_all(sent(image), keep_state=True, context=ADA)
    assert whole["state_kept"]
    native = image.astype(np.uint8) if image.dtype == bool else image
    named = image_reference(pixels_sha256(native, "YX"), image.shape)
    again = await service.segment_all(named, axes="YX", context=ADA)
    np.testing.assert_array_equal(labels(again), labels(whole))
    constant = np.ptp(native) == 0
    assert again["note"] == whole["note"] == (CONSTANT_IMAGE_NOTE if constant else None)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no digest": ({"image": {"image_sha256": 7, "shape": [6, 8]}}, WrongParameter, "hexadecimal"),
    "no shape": ({"image": {"image_sha256": DIGEST}}, WrongParameter, "needs the keys"),
    "a shape of text": ({"image": image_reference(DIGEST, "68")}, WrongParameter, "lengths"),  # type: ignore[arg-type]
    "an empty axis": ({"image": image_reference(DIGEST, (0, 8))}, WrongShape, "empty axis"),
    "axes that do not fit": ({"axes": "ZYX"}, WrongAxes, "3 dimensions"),
    "too large": ({"image": image_reference(DIGEST, (1 << 20,) * 2)}, ImageTooLarge, "limit"),
    "statistics": ({"image_statistics": {}}, WrongParameter, "take none"),
    "a parameter": ({"width": 3}, WrongParameter, "unknown"),
    "with an embedding": ({"embedding": True, "keep_state": True}, WrongParameter, "keep_state"),
    "no switch": ({"keep_state": "yes"}, WrongParameter, "true or false"),
}


@pytest.mark.parametrize(("changes", "error", "text"), WRONG.values(), ids=WRONG)
async def test_wrong_requests(
    serve: Serve, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    service = serve(StagedEngine())
    asked = {"image": REFERENCE, "context": ADA} | changes
    with pytest.raises(error, match=text):
        await service.segment_all(asked.pop("image"), **asked)


def test_a_state_that_is_dropped_while_its_request_waits() -> None:
    states = StateCache(1000)
    work = EngineWork(StagedEngine(), 1 << 20, 1 << 20, states)
    key = StateKey("ada", DIGEST, (6, 8), "YX", "settings")
    states.keep(key, IMAGE.astype(np.int64))
    waiting = work.kept("ada", key, (6, 8), "YX", {})
    assert waiting.finish(None).object_count == 1
    states.keep(replace(key, image_sha256="another"), np.zeros(600, np.uint8))
    with pytest.raises(StateNotKept):
        waiting.finish(None)


async def test_states_pass_a_device_that_is_busy(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine()
    service = serve(engine)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["infer"] = gate
    busy = [
        asyncio.ensure_future(service.segment_all(sent(IMAGE + n), context=BOB)) for n in range(8)
    ]
    await gate.until(1)
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(service.segment_all(REFERENCE, context=ADA, level=level) for level in range(12))
        )
    assert [labels(answer)[0, 0] for answer in answers] == [0] * 12
    assert not any(each.done() for each in busy)
    gate.opened.set()
    await asyncio.gather(*busy)


async def test_states_leave_the_device_its_work(serve: Serve, gate: Gate) -> None:
    """Requests with a state that fill ``finish`` do not keep images from the device."""
    engine = StagedEngine()
    service = serve(engine, finish_threads=2)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["finish"] = gate
    named = [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(10)]
    await gate.until(2)
    image = asyncio.ensure_future(service.segment_all(sent(IMAGE + 1), context=BOB))
    await until(lambda: engine.entered["infer"] == 2)
    assert engine.most_at_once["finish"] == 2
    gate.opened.set()
    await asyncio.gather(image, *named)
    assert engine.most_at_once["finish"] == 2


async def test_a_large_image_gets_its_bytes_among_requests_with_states(
    serve: Serve, gate: Gate
) -> None:
    class Heavy(StagedEngine):
        def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
            return 1000 * shape[0]

    engine = Heavy()
    service = serve(engine, max_working_bytes=20_000)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["finish"] = gate
    named = [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(2)]
    await gate.until(2)
    # It needs the whole, and waits for both.
    large = np.arange(400, dtype=np.uint16).reshape(20, 20)
    whole = asyncio.ensure_future(service.segment_all(sent(large), context=BOB))
    await asyncio.sleep(0.02)
    named += [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(5)]
    await asyncio.sleep(0.02)
    # Bytes are left for one more, which does not pass the large one.
    assert engine.entered["finish"] == 3
    gate.opened.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(whole, *named)


async def test_a_cancelled_request_frees_its_place(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine()
    service = serve(engine, finish_threads=1)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["finish"] = gate
    asked = [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(4)]
    await gate.until(1)
    for each in asked[:3]:
        each.cancel()
    await asyncio.gather(*asked[:3], return_exceptions=True)
    gate.opened.set()
    assert labels(await asked[3]).any()
    # The first one, the one that ran while it was cancelled, and the last one.
    assert engine.entered["finish"] == 3
    assert service.idle_s() >= 0
    await service.segment_all(REFERENCE, context=ADA)


async def test_waiting_requests_with_states_end_with_the_service(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine()
    service = serve(engine, finish_threads=1)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["finish"] = gate
    asked = [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(3)]
    await gate.until(1)
    draining = asyncio.ensure_future(service.drain(PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait(asked[1:])
    for each in asked[1:]:
        assert isinstance(each.exception(), ServiceBusy)
    gate.opened.set()
    await draining
    assert labels(await asked[0]).any()


async def test_a_request_with_a_state_needs_a_place_in_the_queue(serve: Serve, gate: Gate) -> None:
    engine = StagedEngine()
    service = serve(engine, max_queue=4)
    await service.segment_all(sent(), keep_state=True, context=ADA)
    engine.on["finish"] = gate
    # Three quarters of the places for one caller.
    asked = [asyncio.ensure_future(service.segment_all(REFERENCE, context=ADA)) for _ in range(3)]
    await gate.until(3)
    with pytest.raises(ServiceBusy):
        await service.segment_all(REFERENCE, context=ADA)
    gate.opened.set()
    await asyncio.gather(*asked)
