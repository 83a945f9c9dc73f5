"""The service's contract over a scripted engine: the queue, the refusals, the forms of answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from samservice.contract.axes import MASK_AXES
from samservice.contract.errors import (
    EmbeddingsUnsupported,
    ImageTooLarge,
    NotFinite,
    SegmentationFailed,
    ServiceBusy,
    ServiceError,
    WrongAxes,
    WrongDtype,
    WrongParameter,
    WrongShape,
)
from samservice.contract.validation import unpack_image
from samservice.contract.wire import (
    CODECS,
    FAST_IMAGE_CODEC,
    WIRE_VERSION,
    pack_array,
    unpack_array,
)
from samservice.engines.base import Engine
from samservice.server import engine_work
from samservice.server.app import Limits, SegmentationService
from samservice.server.engine_work import CONSTANT_IMAGE_NOTE

#: A test that would hang fails instead.
PATIENCE_S = 10.0

IMAGE = np.arange(48, dtype=np.uint16).reshape(6, 8)


def halves(image: np.ndarray, axes: str) -> np.ndarray:
    """Label the left half 1 and the right half 7."""
    shape = tuple(n for n, axis in zip(image.shape, axes, strict=True) if axis != "C")
    mask = np.ones(shape, np.uint32)
    mask[..., shape[-1] // 2 :] = 7
    return mask


class ScriptedEngine:
    """Does what ``work`` says, and remembers what it was given and how many calls overlapped."""

    def __init__(self, work: Callable[..., Any] = halves) -> None:
        self.work = work
        self.seen: list[tuple[np.ndarray, str, dict[str, Any]]] = []
        self.embeddings: list[dict[str, Any]] = []
        self.threads: set[str] = set()
        self.most_at_once = 0
        self._at_once = 0

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "model": "none", "embeddings": True}

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        if unknown := set(parameters) - {"sigma"}:
            raise WrongParameter(f"{sorted(unknown)} unknown, expected sigma")

    def segment(self, image: np.ndarray, axes: str, parameters: dict[str, Any]) -> np.ndarray:
        self.seen.append((image, axes, parameters))
        self.threads.add(threading.current_thread().name)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.work(image, axes)  # type: ignore[no-any-return]
        finally:
            self._at_once -= 1

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        return {"features": image.astype(np.float32), "original_size": list(image.shape)}

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        self.embeddings.append(embedding)
        return self.work(embedding["features"], "YX")  # type: ignore[no-any-return]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., SegmentationService]]:
    made: list[SegmentationService] = []

    def make(engine: Engine, **limits: int) -> SegmentationService:
        made.append(SegmentationService(engine, Limits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


Serve = Callable[..., SegmentationService]


class Gate:
    """Engine work that waits until the event loop opens it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, image: np.ndarray, axes: str) -> np.ndarray:
        self.entered.set()
        assert self._open.wait(PATIENCE_S), "the loop never came to open the gate"
        return halves(image, axes)

    def open(self) -> None:
        self._open.set()

    async def until_entered(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.entered.is_set():
                await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.open()


def packed(image: np.ndarray) -> dict[str, Any]:
    return pack_array(image, FAST_IMAGE_CODEC)


# The queue.


async def test_one_image_at_a_time_although_many_calls_overlap(serve: Serve) -> None:
    def work(image: np.ndarray, axes: str) -> np.ndarray:
        time.sleep(0.002)
        return halves(image, axes)

    engine = ScriptedEngine(work)
    service = serve(engine)
    masks = await asyncio.gather(*(service.segment_all(IMAGE + n) for n in range(8)))
    assert engine.most_at_once == 1
    assert len(engine.threads) == 1
    assert len(masks) == len(engine.seen) == 8


async def test_the_loop_goes_on_while_the_engine_works(serve: Serve, gate: Gate) -> None:
    service = serve(ScriptedEngine(gate))
    working = asyncio.create_task(service.segment_all(IMAGE))
    await gate.until_entered()
    assert (await service.probe(b"still there?"))["received_bytes"] == 12
    assert (await service.describe())["engine"] == "scripted"
    assert not working.done()
    gate.open()
    assert (await working).max() == 7


async def test_a_full_queue_says_busy_and_has_room_again_afterwards(
    serve: Serve, gate: Gate
) -> None:
    engine = ScriptedEngine(gate)
    service = serve(engine, max_queue=2)
    waiting = [asyncio.create_task(service.segment_all(IMAGE)) for _ in range(2)]
    await gate.until_entered()
    with pytest.raises(ServiceBusy, match="queue already holds 2 images"):
        # The payload is not even looked at.
        await service.segment_all("no image")
    with pytest.raises(ServiceBusy):
        await service.encode_image(IMAGE)
    gate.open()
    await asyncio.gather(*waiting)
    assert (await service.segment_all(IMAGE)).shape == IMAGE.shape
    assert len(engine.seen) == 3


async def test_one_caller_can_hold_three_quarters_of_the_queue(serve: Serve, gate: Gate) -> None:
    service = serve(ScriptedEngine(gate), max_queue=8)
    waiting = []
    for caller, places_left in (("a", [6, 5, 4, 3, 2, 1, 0]), ("b", [2, 1, 0]), ("c", [0])):
        context = {"user": {"id": caller}}
        for places in places_left:
            assert (await service.probe(b"", context=context))["places_left"] == places
            call = asyncio.create_task(service.segment_all(IMAGE, context=context))
            await asyncio.sleep(0)
            if places:
                waiting.append(call)
            else:
                with pytest.raises(ServiceBusy):
                    await call
    gate.open()
    assert len(await asyncio.gather(*waiting)) == 8


async def test_a_refused_image_leaves_its_place_free(serve: Serve) -> None:
    service = serve(ScriptedEngine(), max_queue=1)
    for _ in range(3):
        with pytest.raises(WrongDtype):
            await service.segment_all("no image")
    assert (await service.segment_all(IMAGE)).shape == IMAGE.shape


async def test_a_cancelled_waiting_call_leaves_its_place_free(serve: Serve, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    service = serve(engine, max_queue=2)
    working = asyncio.create_task(service.segment_all(IMAGE))
    await gate.until_entered()
    waiting = asyncio.create_task(service.segment_all(IMAGE + 1))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    next_one = asyncio.create_task(service.segment_all(IMAGE + 2))
    await asyncio.sleep(0.02)
    assert not next_one.done()
    gate.open()
    assert (await working).shape == (await next_one).shape
    # The engine is spared the image nobody waits for.
    assert [int(image[0, 0]) for image, _, _ in engine.seen] == [0, 2]


async def test_of_the_images_that_wait_the_next_alone_is_unpacked(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []

    def unpack(image: Any, *others: Any) -> Any:
        found = unpack_image(image, *others)
        unpacked.append(int(found[0][0, 0]))
        return found

    monkeypatch.setattr(engine_work, "unpack_image", unpack)
    engine = ScriptedEngine(gate)
    service = serve(engine)
    calls = [asyncio.create_task(service.segment_all(packed(IMAGE + n))) for n in range(8)]
    await gate.until_entered()
    async with asyncio.timeout(PATIENCE_S):
        while len(unpacked) < 2:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    # One is in the engine, and the next need not be waited for.
    assert unpacked == [0, 1]
    gate.open()
    await asyncio.gather(*calls)
    # First come, first served.
    assert [int(image[0, 0]) for image, _, _ in engine.seen] == list(range(8))


@pytest.mark.parametrize(
    ("image", "refusal"),
    [
        ("no image", WrongDtype),
        (IMAGE[0], WrongAxes),
        (IMAGE[:0], WrongShape),
        (np.zeros((200, 10)), ImageTooLarge),
        (packed(IMAGE) | {"shape": [6, 9]}, WrongShape),
        (packed(IMAGE[0]), WrongAxes),
        (packed(np.zeros((200, 10), np.uint8)), ImageTooLarge),
    ],
)
async def test_what_its_header_refuses_does_not_wait_for_the_engine(
    serve: Serve, gate: Gate, image: Any, refusal: type[ServiceError]
) -> None:
    service = serve(ScriptedEngine(gate), max_pixels=1000)
    waiting = [asyncio.create_task(service.segment_all(IMAGE)) for _ in range(3)]
    await gate.until_entered()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(refusal):
            await service.segment_all(image)
        with pytest.raises(refusal):
            await service.encode_image(image)
        with pytest.raises(WrongDtype):
            await service.segment_all("no embedding", embedding=True)
    assert not any(call.done() for call in waiting)
    gate.open()
    await asyncio.gather(*waiting)


async def test_an_image_that_waits_is_dropped_with_its_call_at_any_stage(
    serve: Serve, gate: Gate
) -> None:
    engine = ScriptedEngine(gate)
    service = serve(engine)
    calls = [asyncio.create_task(service.segment_all(IMAGE + n)) for n in range(4)]
    await gate.until_entered()
    await asyncio.sleep(0.02)
    # The unpacked one, and one that is not.
    for call in calls[1:3]:
        call.cancel()
    # They are told at the loop's next turn; the engine must not be free before.
    await asyncio.wait(calls[1:3])
    gate.open()
    kept = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each).__name__ for each in kept] == [
        "ndarray",
        "CancelledError",
        "CancelledError",
        "ndarray",
    ]
    assert [int(image[0, 0]) for image, _, _ in engine.seen] == [0, 3]


# What the engine does wrong.


def raising(error: BaseException) -> Callable[..., Any]:
    def work(image: np.ndarray, axes: str) -> Any:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (raising(ValueError("no seeds")), "ValueError: no seeds"),
        (raising(MemoryError("8 GiB")), "MemoryError: 8 GiB"),
        (raising(RuntimeError("CUDA out of memory")), "RuntimeError: CUDA out of memory"),
        (lambda image, axes: np.zeros((8, 6), np.uint32), "uint32 (8, 6), expected labels (6, 8)"),
        (lambda image, axes: np.zeros((1, 6, 8), np.uint32), "(1, 6, 8), expected labels (6, 8)"),
        (lambda image, axes: np.zeros((6, 8), np.float32), "float32 (6, 8), expected labels"),
        (lambda image, axes: np.zeros((6, 8), bool), "bool (6, 8), expected labels"),
        (lambda image, axes: None, "returned NoneType, expected labels"),
    ],
    ids=["exception", "memory", "cuda", "transposed", "extra axis", "float", "bool", "none"],
)
@pytest.mark.parametrize("form", [packed, lambda image: image], ids=["packed", "plain"])
async def test_a_failing_engine_is_named_with_its_text(
    serve: Serve, work: Callable[..., Any], text: str, form: Callable[..., Any]
) -> None:
    engine = ScriptedEngine(work)
    service = serve(engine)
    with pytest.raises(SegmentationFailed) as caught:
        await service.segment_all(form(IMAGE))
    assert text in str(caught.value)
    assert str(caught.value).startswith("[samservice.SegmentationFailed] ")
    engine.work = halves
    assert (await service.segment_all(IMAGE)).max() == 7


@pytest.mark.parametrize("error", [EmbeddingsUnsupported("none here"), WrongParameter("sigma")])
async def test_an_engine_may_refuse_by_name(serve: Serve, error: ServiceError) -> None:
    with pytest.raises(type(error), match=error.message):
        await serve(ScriptedEngine(raising(error))).segment_all(IMAGE)


async def test_a_wrong_parameter_is_refused_before_the_image_is_looked_at(serve: Serve) -> None:
    engine = ScriptedEngine()
    with pytest.raises(WrongParameter, match="simga"):
        await serve(engine).segment_all("no image", simga=3)
    assert engine.seen == []


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize(
    ("shape", "axes"), [((6, 8), "YX"), ((3, 6, 8), "CYX"), ((3, 6, 8), "ZYX")]
)
async def test_a_constant_image_never_reaches_the_engine(
    serve: Serve, value: int, shape: tuple[int, ...], axes: str
) -> None:
    engine = ScriptedEngine()
    answer = await serve(engine).segment_all(packed(np.full(shape, value, np.uint8)), axes=axes)
    mask = unpack_array(answer["mask"], 1 << 20)
    assert mask.shape == (shape[1:] if axes == "CYX" else shape)
    assert mask.dtype == np.uint32 and not mask.any()
    assert (answer["object_count"], answer["note"]) == (0, CONSTANT_IMAGE_NOTE)
    assert engine.seen == []


# The answer comes in the form of the question.


async def test_a_plain_image_gets_the_mask_alone(serve: Serve) -> None:
    mask = await serve(ScriptedEngine()).segment_all(IMAGE)
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == np.uint32
    np.testing.assert_array_equal(mask, halves(IMAGE, "YX"))


async def test_a_packed_image_gets_mask_count_and_times(serve: Serve) -> None:
    before_s = time.time()
    answer = await serve(ScriptedEngine()).segment_all(packed(IMAGE))
    after_s = time.time()
    assert set(answer) == {
        "mask", "object_count", "note", "made_by", "seconds", "received_unix_s", "sent_unix_s",
        "pipeline_depth", "caller_images", "device_busy", "images_per_s",
    }  # fmt: skip
    assert answer["made_by"] == {
        "engine": "scripted", "model": "none", "model_sha256": None, "segmentation_version": None,
    }  # fmt: skip
    mask = unpack_array(answer["mask"], 1 << 20)
    assert mask.dtype == np.uint32
    np.testing.assert_array_equal(mask, halves(IMAGE, "YX"))
    assert (answer["object_count"], answer["note"]) == (2, None)
    assert set(answer["seconds"]) == {"queue", "prepare", "infer", "finish"}
    assert all(seconds >= 0 for seconds in answer["seconds"].values())
    assert before_s <= answer["received_unix_s"] <= answer["sent_unix_s"] <= after_s


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
async def test_labels_of_any_integer_type_leave_as_uint32(serve: Serve, dtype: Any) -> None:
    service = serve(ScriptedEngine(lambda image, axes: halves(image, axes).astype(dtype)))
    assert (await service.segment_all(IMAGE)).dtype == np.uint32
    answer = await service.segment_all(packed(IMAGE))
    assert unpack_array(answer["mask"], 1 << 20).dtype == np.uint32


async def test_the_engine_sees_image_axes_and_parameters_alone(serve: Serve) -> None:
    engine = ScriptedEngine()
    stack = np.arange(96, dtype=np.uint8).reshape(2, 6, 8)
    service = serve(engine)
    await service.segment_all(packed(stack), axes="ZYX", sigma=2, context={"user": {"id": "u"}})
    await service.segment_all(stack)
    (image, axes, parameters), (_, default_axes, _) = engine.seen
    np.testing.assert_array_equal(image, stack)
    assert (axes, parameters, default_axes) == ("ZYX", {"sigma": 2}, "CYX")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"data": b""}, "too short"),
        ({"shape": [60, 80]}, "needs"),
        ({"wire": 9}, "wire version"),
        ({"codec": "lzma"}, "codec"),
    ],
)
async def test_a_damaged_packed_image_is_the_images_fault(
    serve: Serve, damage: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongShape, match=message):
        await serve(ScriptedEngine()).segment_all(packed(IMAGE) | damage)


async def test_more_bytes_than_the_limit_are_never_unpacked(serve: Serve) -> None:
    with pytest.raises(WrongShape, match="limit 10"):
        await serve(ScriptedEngine(), max_image_bytes=10).segment_all(packed(IMAGE))


class ScalingEngine(ScriptedEngine):
    def describe(self) -> dict[str, Any]:
        return super().describe() | {"embedding_parameters": ["sigma"]}

    def encode(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return super().encode(image, axes) | {"used": parameters}


async def test_an_embedding_takes_the_parameters_that_the_engine_describes(serve: Serve) -> None:
    service = serve(ScalingEngine())
    assert (await service.encode_image(IMAGE, sigma=2))["used"] == {"sigma": 2}
    assert (await service.encode_image(IMAGE))["used"] is None
    with pytest.raises(WrongParameter, match="takes no parameter window, expected sigma"):
        await service.encode_image(IMAGE, window=2)
    with pytest.raises(WrongParameter, match="takes no parameter sigma, expected none"):
        await serve(ScriptedEngine()).encode_image(IMAGE, sigma=2)


# What may come in.


@pytest.mark.parametrize(
    ("image", "axes", "refusal", "message"),
    [
        ([[1, 2], [3, 4]], None, WrongDtype, "got list"),
        (None, None, WrongDtype, "got NoneType"),
        ("pixels", None, WrongDtype, "got str"),
        (b"\0" * 48, None, WrongDtype, "got bytes"),
        (np.zeros((2, 2), np.complex64), None, WrongDtype, "complex64"),
        (np.zeros((2, 2), object), None, WrongDtype, "object"),
        (np.full((2, 2), "a"), None, WrongDtype, "<U1"),
        (np.zeros((2, 2), "M8[s]"), None, WrongDtype, "datetime64"),
        (np.zeros((2, 2), [("a", "u1")]), None, WrongDtype, "'a'"),
        (np.zeros((2, 2), np.longdouble), None, WrongDtype, "float128"),
        (np.array(3), None, WrongAxes, "0 dimensions"),
        (np.zeros(4), None, WrongAxes, "1 dimensions"),
        (np.zeros((1, 1, 2, 2)), None, WrongAxes, "4 dimensions"),
        (np.zeros((5, 6, 3)), None, WrongAxes, "(5, 6, 3) without axes looks like (Y, X, channel)"),
        (packed(np.zeros((6, 5, 4), np.uint8)), None, WrongAxes, "move the last axis to the front"),
        (np.zeros((5, 2, 1)), None, WrongAxes, "expected (channel, Y, X)"),
        (np.zeros((2, 2)), "XY", WrongAxes, "'XY' are unknown"),
        (np.zeros((2, 2, 3)), "YXC", WrongAxes, "'YXC' are unknown"),
        (np.zeros((2, 2)), "", WrongAxes, "'' are unknown"),
        (np.zeros((2, 2)), "CYX", WrongAxes, "need 3 dimensions, the image has 2"),
        (np.zeros((2, 2, 2)), "YX", WrongAxes, "need 2 dimensions, the image has 3"),
        (np.zeros((0, 2)), None, WrongShape, "empty axis"),
        (np.zeros((0, 2, 2)), None, WrongShape, "empty axis"),
        (np.zeros((11, 10)), None, ImageTooLarge, "limit of 100 px"),
        (np.array([[1.0, np.nan]]), None, NotFinite, "1 NaN or infinite values of 2"),
        (np.array([[np.inf, -np.inf]], np.float16), None, NotFinite, "2 NaN or infinite"),
    ],
)
def test_what_is_refused_and_how(
    image: Any, axes: str | None, refusal: type[ServiceError], message: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        unpack_image(image, axes, max_bytes=1 << 20, max_pixels=100)
    assert type(caught.value) is refusal
    assert message in str(caught.value)
    assert caught.value.kind == "image"


@pytest.mark.parametrize(
    ("image", "axes", "dtype", "found"),
    [
        (np.array([[True, False]]), None, np.uint8, "YX"),
        (np.array([[1, 258]], ">u2"), None, np.uint16, "YX"),
        (np.array([[1, 258]], ">f4"), None, np.float32, "YX"),
        (np.array([[1.5, -2]], np.float16), None, np.float16, "YX"),
        (np.array([[-3, 4]], np.int8), None, np.int8, "YX"),
        (np.array([[-3, 2**40]], np.int64), None, np.int64, "YX"),
        (np.array([[1.5, 2]], np.float64), None, np.float64, "YX"),
        (np.arange(12, dtype=np.uint8).reshape(3, 4).T, None, np.uint8, "YX"),
        (np.arange(36, dtype=np.uint16).reshape(6, 6)[::2, ::-1], None, np.uint16, "YX"),
        (np.ones((3, 4, 5), np.uint8), None, np.uint8, "CYX"),
        (np.ones((3, 4, 5), np.uint8), "ZYX", np.uint8, "ZYX"),
        (np.ones((4, 6, 4), np.uint8), None, np.uint8, "CYX"),
        (np.ones((5, 2, 5), np.uint8), None, np.uint8, "CYX"),
        (np.ones((5, 6, 3), np.uint8), "CYX", np.uint8, "CYX"),
        (np.ones((2, 3, 4, 4), np.uint8), "CZYX", np.uint8, "CZYX"),
        (np.zeros((10, 10), np.uint8), None, np.uint8, "YX"),
    ],
)
def test_what_is_accepted_keeps_its_values(
    image: np.ndarray, axes: str | None, dtype: Any, found: str
) -> None:
    checked, found_axes = unpack_image(image, axes, max_bytes=1 << 20, max_pixels=100)
    assert (checked.dtype, found_axes) == (dtype, found)
    assert checked.dtype.isnative and checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, image)


# Embeddings.


@pytest.mark.parametrize("form", [packed, lambda image: image], ids=["packed", "plain"])
async def test_an_embedding_goes_there_and_back_in_its_form(
    serve: Serve, form: Callable[..., Any]
) -> None:
    engine = ScriptedEngine()
    service = serve(engine)
    embedding = await service.encode_image(form(IMAGE))
    is_packed = isinstance(embedding["features"], dict)
    assert is_packed == isinstance(form(IMAGE), dict)
    answer = await service.segment_all(embedding, embedding=True)
    mask = unpack_array(answer["mask"], 1 << 20) if is_packed else answer
    np.testing.assert_array_equal(mask, await service.segment_all(IMAGE))
    np.testing.assert_array_equal(engine.embeddings[0]["features"], IMAGE)
    assert engine.embeddings[0]["original_size"] == [6, 8]


@pytest.mark.parametrize(
    ("embedding", "refusal"),
    [
        (IMAGE, WrongDtype),
        ("features", WrongDtype),
        ({"features": packed(IMAGE) | {"shape": [1, 1]}}, WrongShape),
        ({"features": IMAGE, "original_size": [1 << 20, 1 << 20]}, ImageTooLarge),
        ({"features": IMAGE, "original_size": "large"}, WrongShape),
        ({"features": IMAGE, "original_size": [6, 0]}, WrongShape),
        ({"features": IMAGE, "original_size": [6]}, WrongShape),
    ],
)
async def test_what_is_no_embedding_is_refused_before_the_engine(
    serve: Serve, embedding: Any, refusal: type[ServiceError]
) -> None:
    engine = ScriptedEngine()
    with pytest.raises(refusal):
        await serve(engine).segment_all(embedding, embedding=True)
    assert engine.embeddings == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [(None, "NoneType"), (np.zeros((6, 8), np.float32), "float32 (6, 8), expected labels (Y, X)")],
    ids=["none", "float"],
)
@pytest.mark.parametrize("form", [packed, lambda image: image], ids=["packed", "plain"])
async def test_a_wrong_mask_of_an_embedding_is_named_too(
    serve: Serve, answer: Any, text: str, form: Callable[..., Any]
) -> None:
    service = serve(ScriptedEngine(lambda image, axes: answer))
    embedding = await service.encode_image(form(IMAGE))
    with pytest.raises(SegmentationFailed) as caught:
        await service.segment_all(embedding, embedding=True)
    assert text in str(caught.value)


async def test_an_image_is_checked_before_it_is_encoded(serve: Serve) -> None:
    with pytest.raises(NotFinite):
        await serve(ScriptedEngine()).encode_image(np.array([[np.nan, 1.0]]))


# describe and probe.


async def test_describe_tells_engine_wire_axes_and_limits(serve: Serve) -> None:
    description = await serve(ScriptedEngine(), max_queue=3).describe(context={"user": {}})
    assert set(description) == {
        "engine", "model", "embeddings", "service", "service_version", "axes", "wire", "limits",
        "recent", "pipeline", "states",
    }  # fmt: skip
    assert description["wire"] == {"version": WIRE_VERSION, "codecs": list(CODECS)}
    assert description["axes"] == sorted(MASK_AXES)
    assert description["limits"] == {
        "max_pixels": 1 << 28,
        "max_image_bytes": 1 << 31,
        "max_queue": 3,
        "max_probe_bytes": 64 << 20,
        "max_queue_bytes": 2 << 30,
        "max_working_bytes": 4 << 30,
        "max_state_bytes": 1 << 30,
        "max_stage_s": 480,
        "in_parallel": 1,
    }


async def test_describe_tells_the_pace_of_the_images_that_the_engine_had(serve: Serve) -> None:
    service = serve(ScriptedEngine())
    assert (await service.describe())["recent"] == {"images": 0, "pixels": 0, "seconds": 0}
    for image in (IMAGE, IMAGE, np.zeros_like(IMAGE)):
        await service.segment_all(image)
    recent = (await service.describe())["recent"]
    assert (recent["images"], recent["pixels"]) == (2, 2 * IMAGE.size)
    assert recent["seconds"] > 0


@pytest.mark.parametrize(
    ("context", "caller"),
    [
        (None, None),
        ({}, None),
        ({"user": None}, None),
        ({"user": {"id": "u"}}, "u"),
        ({"user": {"id": "u", "email": "u@example.org"}}, "u@example.org"),
    ],
)
async def test_a_probe_counts_bytes_both_ways_and_names_the_caller(
    serve: Serve, context: dict[str, Any] | None, caller: str | None
) -> None:
    answer = await serve(ScriptedEngine()).probe(b"x" * 10, 20, context=context)
    assert (answer["received_bytes"], len(answer["data"]), answer["caller"]) == (10, 20, caller)
    assert answer["received_unix_s"] <= answer["sent_unix_s"]


@pytest.mark.parametrize(
    ("payload", "reply_bytes", "message"),
    [
        (b"x" * 101, 0, "payload"),
        ("text", 0, "got str"),
        (None, 0, "got NoneType"),
        (b"", 101, "got 101"),
        (b"", -1, "got -1"),
        (b"", 1.5, "got 1.5"),
        (b"", "9", "got '9'"),
    ],
)
async def test_a_probe_has_limits(
    serve: Serve, payload: Any, reply_bytes: Any, message: str
) -> None:
    service = serve(ScriptedEngine(), max_probe_bytes=100)
    with pytest.raises(WrongParameter, match=message):
        await service.probe(payload, reply_bytes)
    assert len((await service.probe(b"x" * 100, 100))["data"]) == 100


async def test_a_probe_tells_how_many_images_the_engine_is_done_with(serve: Serve) -> None:
    def work(image: np.ndarray, axes: str) -> np.ndarray:
        if image[0, 0] == 1:
            raise RuntimeError("out of memory")
        return halves(image, axes)

    service = serve(ScriptedEngine(work), max_queue=2)
    counts = []
    for image in (IMAGE, IMAGE + 1, np.zeros_like(IMAGE), IMAGE):
        with suppress(SegmentationFailed):
            await service.segment_all(image)
        counts.append((await service.probe(b""))["images_finished"])
    assert counts == [1, 2, 2, 3]


async def test_a_probe_tells_how_many_more_images_the_queue_takes(serve: Serve, gate: Gate) -> None:
    service = serve(ScriptedEngine(gate), max_queue=2)
    places, calls = [], []
    for _ in range(3):
        places.append((await service.probe(b""))["places_left"])
        calls.append(asyncio.create_task(service.segment_all(IMAGE)))
        await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*calls, return_exceptions=True)
    places.append((await service.probe(b""))["places_left"])
    assert places == [2, 1, 0, 2]


async def test_closing_drops_the_images_that_wait(serve: Serve, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    service = serve(engine)
    working = asyncio.create_task(service.segment_all(IMAGE))
    await gate.until_entered()
    waiting = [asyncio.create_task(service.segment_all(IMAGE)) for _ in range(3)]
    await asyncio.sleep(0.02)
    service.close()
    gate.open()
    assert (await working).max() == 7
    for call in waiting:
        # An answer: hypha-rpc sends none for a call that is cancelled.
        with pytest.raises(ServiceBusy, match="the service ends"):
            async with asyncio.timeout(PATIENCE_S):
                await call
    assert len(engine.seen) == 1
