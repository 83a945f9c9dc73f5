"""The stages of the engine: batches, bfloat16, memory, and what ``describe`` says of them."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import SegmentationFailed, WrongParameter
from samservice.engines import microsam_api, microsam_device
from samservice.engines.base import build_engine
from samservice.engines.microsam_batches import largest_equal_batch, random_planes
from samservice.engines.microsam_parameters import OF_GENERATE
from samservice.engines.stages import Prepared

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]

TILES = {"tile_shape": [96, 96], "halo": [16, 16]}
#: Of different contents and sizes, with one and three channels.
SIZES = [(128, 128), (128, 128), (97, 131), (200, 150), (64, 64), (50, 260), (1, 50), (31, 17)]


def small_engine(checkpoint: Path, **options: Any) -> Any:
    return build_engine(
        "microsam-small", {"checkpoint": str(checkpoint), "device": "cpu"} | options
    )


def batching(engine: Any, largest: int = 8) -> Any:
    """Let an engine on the CPU make batches, as it does on a GPU."""
    engine._model.max_batch = largest
    return engine


def encoder_batches(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of planes of every call of the encoder."""
    sizes: list[int] = []
    encoder = engine._predictor.model.image_encoder
    forward = encoder.forward

    def counted(planes: Any) -> Any:
        sizes.append(len(planes))
        return forward(planes)

    monkeypatch.setattr(encoder, "forward", counted)
    return sizes


@pytest.fixture
def images(recipe: ModuleType) -> list[tuple[str, Any]]:
    drawn = [recipe.draw_blobs(seed, size)[0] for seed, size in enumerate(SIZES)]
    colour = np.stack([recipe.draw_blobs(seed, (128, 96))[0] for seed in range(3)])
    return [("YX", image) for image in drawn[:7]] + [("CYX", colour)]


@pytest.mark.parametrize("parameters", [{}, {"normalization": "minmax", "min_size": 20}], ids=str)
def test_eight_images_of_a_batch_have_the_labels_of_each_alone(
    engine: Any,
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: list[tuple[str, Any]],
    parameters: dict[str, Any],
) -> None:
    own = batching(small_engine(small_checkpoint))
    prepared = [own.prepare(image, axes, parameters) for axes, image in images]
    (key,) = {each.batch_key for each in prepared}
    assert key is not None and own.max_batch(key) == 8
    sizes = encoder_batches(own, monkeypatch)
    states = own.infer(prepared)
    assert sizes == [8]
    for (axes, image), state in zip(images, states, strict=True):
        labels = own.finish(state, parameters)
        np.testing.assert_array_equal(labels, engine.segment(image, axes, parameters))


def test_batches_have_only_sizes_that_were_compared(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, images: list[tuple[str, Any]]
) -> None:
    own = batching(small_engine(small_checkpoint), 4)
    prepared = [own.prepare(image, axes, {}) for axes, image in images]
    sizes = encoder_batches(own, monkeypatch)
    own.infer(prepared[:7])
    assert sizes == [4, 2, 1]


def test_the_planes_of_a_volume_are_a_batch(
    engine: Any, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, recipe: ModuleType
) -> None:
    volume = np.stack([recipe.draw_blobs(seed, (96, 128))[0] for seed in range(5)])
    volume[1] = 7
    own = batching(small_engine(small_checkpoint))
    sizes = encoder_batches(own, monkeypatch)
    prepared = own.prepare(volume, "ZYX", {})
    assert own.max_batch(prepared.batch_key) == 1
    (state,) = own.infer([prepared])
    assert sizes == [4]
    assert state.shown == (0, 2, 3, 4)
    labels = own.finish(state, {"gap_closing": 1})
    np.testing.assert_array_equal(labels, engine.segment(volume, "ZYX", {"gap_closing": 1}))
    np.testing.assert_array_equal(own.finish(state, {}), engine.segment(volume, "ZYX", {}))


def test_embeddings_are_a_batch_for_the_decoder(
    engine: Any,
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: list[tuple[str, Any]],
) -> None:
    own = batching(small_engine(small_checkpoint))
    prepared = [own.prepare_embedding(engine.encode(image, axes), {}) for axes, image in images]
    (key,) = {each.batch_key for each in prepared}
    assert own.max_batch(key) == 8
    assert key != own.prepare(images[0][1], "YX", {}).batch_key
    sizes = encoder_batches(own, monkeypatch)
    for (axes, image), state in zip(images, own.infer(prepared), strict=True):
        np.testing.assert_array_equal(own.finish(state, {}), engine.segment(image, axes, {}))
    assert sizes == []


def test_a_batch_that_exceeds_the_memory_is_halved(
    engine: Any,
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: list[tuple[str, Any]],
) -> None:
    import torch

    own = batching(small_engine(small_checkpoint))
    sizes = []
    forward = own._predictor.model.image_encoder.forward

    def limited(planes: Any) -> Any:
        sizes.append(len(planes))
        if len(planes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(planes)

    monkeypatch.setattr(own._predictor.model.image_encoder, "forward", limited)
    prepared = [own.prepare(image, axes, {}) for axes, image in images]
    for _ in range(2):
        for (axes, image), state in zip(images, own.infer(prepared), strict=True):
            np.testing.assert_array_equal(own.finish(state, {}), engine.segment(image, axes, {}))
    assert sizes == [8, 4, *[2] * 8]
    assert own.describe()["max_batch"] == own.max_batch("planes") == 2


@pytest.mark.parametrize("mode", ["ais", "apg"])
def test_a_single_image_that_exceeds_the_memory_raises_memory_error_and_frees_it(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, recipe: ModuleType, mode: str
) -> None:
    import torch

    own = small_engine(small_checkpoint, mode=mode)
    filling: list[weakref.ref[Any]] = []

    def exceeding(planes: Any) -> Any:
        filling.append(weakref.ref(planes))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(own._predictor.model.image_encoder, "forward", exceeding)
    image = recipe.draw_blobs(0, (64, 96))[0]
    prepared = own.prepare(image, "YX", {})
    with pytest.raises(MemoryError, match=r"on cpu with an image of \(64, 96\) px") as raised:
        own.infer([prepared])
    gc.collect()
    assert filling and filling[0]() is None
    assert raised.value.__cause__ is raised.value.__context__ is None
    if mode == "ais":
        with pytest.raises(MemoryError, match=r"on cpu with 2 images of \(64, 96\) px"):
            own.infer([prepared] * 2)
    for call in (lambda: own.segment(image, "YX", {}), lambda: own.encode(image, "YX")):
        with pytest.raises(SegmentationFailed, match="out of memory on cpu"):
            call()


MODES = {
    "ais": {"mode": "ais"},
    "amg": {"mode": "amg"},
    "apg": {"mode": "apg"},
    "ais with tiles": {"mode": "ais", **TILES},
    "apg with tiles": {"mode": "apg", **TILES},
}


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        (options, axes)
        for options in MODES.values()
        for axes in ("YX", "ZYX")
        # Minutes: the small model's noise gives very many masks.
        if axes == "YX" or options["mode"] == "ais"
    ],
    ids=str,
)
def test_finish_uses_one_state_for_several_parameters(
    small_checkpoint: Path, recipe: ModuleType, options: dict[str, Any], axes: str
) -> None:
    """micro-sam's own tiled smoothing changes the state in place."""
    own = small_engine(small_checkpoint, **options)
    sides = (40, 48) if options["mode"] == "amg" else (64, 110)
    planes = [recipe.draw_blobs(seed, sides)[0] for seed in range(2)]
    image = planes[0] if axes == "YX" else np.stack(planes)
    used = own.describe()["inference_parameters"]
    given: dict[str, Any] = {
        "ais": {"foreground_smoothing": 3.0, "min_size": 60},
        "amg": {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        "apg": {},
    }[options["mode"]]
    if axes == "ZYX":
        given = given | {"min_z_extent": 2}
    prepared = own.prepare(image, axes, {})
    assert isinstance(prepared, Prepared) and prepared.batch_key == (
        "planes" if (options, axes) == (MODES["ais"], "YX") else None
    )
    (state,) = own.infer([prepared])
    for parameters in (given, {}, given):
        assert not set(parameters) & set(used)
        np.testing.assert_array_equal(
            own.finish(state, parameters), own.segment(image, axes, parameters)
        )


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"mode": "ais"}, {"normalization"}),
        ({"mode": "amg"}, {"normalization"}),
        ({"mode": "apg"}, {"normalization", *OF_GENERATE["apg"]}),
    ],
    ids=str,
)
def test_the_description_says_what_infer_depends_on_and_why_there_are_no_batches(
    small_checkpoint: Path, options: dict[str, Any], used: set[str]
) -> None:
    import torch

    described = small_engine(small_checkpoint, **options).describe()
    assert set(described["inference_parameters"]) == used
    assert described["max_batch"] == 1
    assert described["device_threads"] == torch.get_num_threads()
    reasons = {"ais": "off: not supported on cpu"}
    expected = f"off: with the mode {options['mode']}, images go alone"
    assert described["batching"] == reasons.get(options["mode"], expected)


@pytest.mark.parametrize(
    ("affordable", "equal", "says"),
    [
        (16, 8, "up to 8 planes"),
        (1, 1, "off: the memory of the device suffices for one image"),
        (16, 1, "off: on this device an image gives other values in a batch than alone"),
        (MemoryError("out of memory"), 1, "off: out of memory"),
    ],
)
def test_the_batch_on_a_gpu_is_what_its_memory_and_its_results_allow(
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    affordable: int | Exception,
    equal: int,
    says: str,
) -> None:
    import torch

    limits = []

    def measured(infer_one: Callable[[], Any], device: Any) -> int:
        if isinstance(affordable, Exception):
            raise affordable
        return affordable

    def compared(maps_of: Any, side_px: int, limit: int) -> int:
        limits.append((side_px, limit))
        return equal

    with monkeypatch.context() as patched:
        patched.setattr(microsam_device, "affordable_batch", measured)
        patched.setattr(microsam_device, "largest_equal_batch", compared)
        gpu = property(lambda self: torch.device("cuda"))
        patched.setattr("segment_anything.predictor.SamPredictor.device", gpu)
        own = small_engine(small_checkpoint)
    assert own.describe()["batching"] == says
    assert own.describe()["max_batch"] == own.max_batch("planes") == equal
    assert limits == ([(128, affordable)] if isinstance(affordable, int) else [])


def test_the_largest_equal_batch_is_that_of_the_model_itself(small_checkpoint: Path) -> None:
    model = small_engine(small_checkpoint)._model
    largest = largest_equal_batch(model.maps, 128, limit=4)
    planes = random_planes(4, 128)
    alone = [model.maps([plane])[0] for plane in planes]
    for size in (2, 4):
        together = model.maps(planes[:size])
        are_equal = all(
            np.array_equal(first[name], second[name])
            for first, second in zip(alone, together, strict=False)
            for name in first
        )
        assert are_equal == (size <= largest)
        if not are_equal:
            break


def test_bfloat16_is_another_model_with_nearly_the_same_maps(
    engine: Any, small_checkpoint: Path, recipe: ModuleType
) -> None:
    half = small_engine(small_checkpoint, dtype="bfloat16")
    assert half.describe()["model"] == f"{small_checkpoint.name} (ais, bfloat16)"
    assert engine.describe()["model"] == f"{small_checkpoint.name} (ais)"
    image, truth = recipe.draw_blobs(0)
    (state,), (exact,) = (own.infer([own.prepare(image, "YX", {})]) for own in (half, engine))
    for name, found in state.planes[0].items():
        assert found.dtype == np.float32
        assert 0 < np.abs(found - exact.planes[0][name]).max() < 0.1
    assert recipe.average_precision_50(truth, half.segment(image, "YX", {})) > 0.8
    embedding = half.encode(image, "YX")
    assert embedding["features"].dtype == np.float32
    np.testing.assert_array_equal(
        half.segment_embedding(embedding, {}), half.segment(image, "YX", {})
    )


@pytest.mark.parametrize("options", [MODES["amg"], MODES["apg"], MODES["ais with tiles"]], ids=str)
def test_every_mode_computes_in_bfloat16(
    small_checkpoint: Path, recipe: ModuleType, options: dict[str, Any]
) -> None:
    own = small_engine(small_checkpoint, **options, dtype="bfloat16")
    image = recipe.draw_blobs(0, (40, 48))[0]
    accept_any = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    labels = own.segment(image, "YX", accept_any if options["mode"] == "amg" else {})
    assert labels.shape == image.shape and labels.any()


def test_an_unknown_dtype_is_refused(small_checkpoint: Path) -> None:
    with pytest.raises(WrongParameter, match=r"dtype.*float16.*float32, bfloat16"):
        small_engine(small_checkpoint, dtype="float16")


@pytest.mark.slow
def test_an_encoder_as_wide_as_vit_b_gives_two_planes_the_features_of_each_alone() -> None:
    """Of its twelve layers there are two, one of each kind; vit_b itself takes minutes."""
    import torch

    torch.manual_seed(0)
    sam = microsam_api.build_sam()._build_sam(768, 2, 12, [1])
    planes = torch.stack(
        [
            sam.preprocess(torch.as_tensor(each.pixels).permute(2, 0, 1)[None])[0]
            for each in random_planes(2, 1024)
        ]
    )
    with torch.no_grad():
        together = sam.image_encoder(planes)
        for number in range(2):
            assert torch.equal(together[number], sam.image_encoder(planes[number][None])[0])
