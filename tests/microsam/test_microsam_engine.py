"""The engine against micro-sam called by hand, with a real model small enough for a test."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samcourier.testing import EngineTests
from samservice.contract.channels import to_model_image
from samservice.contract.errors import (
    EmbeddingsUnsupported,
    SegmentationFailed,
    ServiceError,
    WrongAxes,
    WrongParameter,
)
from samservice.contract.image_statistics import ImageStatistics
from samservice.contract.normalization import robust_range
from samservice.engines import microsam_api
from samservice.engines.base import build_engine
from samservice.engines.microsam import MicroSamEngine
from samservice.engines.microsam_input import bytes_as_they_are
from samservice.engines.microsam_parameters import OF_GENERATE

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]

MOBILE_SAM = Path(__file__).parents[2] / "build/microsam/vit_t/mobile_sam"

ACCEPT_ANY_MASK = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def directly(checkpoint: Path, mode: str, prepared: Any, ndim: int, **arguments: Any) -> Any:
    """Call micro-sam as its own documentation does, with a model of its own."""
    return called(checkpoint, mode, prepared, ndim, **arguments)


def with_bytes(checkpoint: Path, mode: str, prepared: Any, ndim: int, **arguments: Any) -> Any:
    """Call micro-sam with an encoder that gets the bytes of a plane as they are."""
    with bytes_as_they_are(ndim == 2):
        return called(checkpoint, mode, prepared, ndim, **arguments)


def called(checkpoint: Path, mode: str, prepared: Any, ndim: int, **arguments: Any) -> Any:
    from small_sam import load_small_sam

    predictor, decoder = load_small_sam(checkpoint, "cpu")
    segmenter = microsam_api.instance_segmentation().get_instance_segmentation_generator(
        predictor, "tile_shape" in arguments, decoder, mode
    )
    return microsam_api.automatic_segmentation().automatic_instance_segmentation(
        predictor, segmenter, prepared, ndim=ndim, verbose=False, **arguments
    )


def small_engine(checkpoint: Path, **options: Any) -> Any:
    """Return micro-sam with the small model, built as a service builds it from JSON."""
    given = json.loads(json.dumps({"checkpoint": str(checkpoint), **options}))
    return build_engine("microsam-small", given)


class TestWhatEveryEngineOwes(EngineTests):
    name = "microsam-small"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, small_checkpoint: Path) -> Any:
        return small_engine(small_checkpoint, device="cpu")

    @pytest.fixture
    def image(self, recipe: ModuleType) -> Any:
        return recipe.draw_blobs(0)[0]


def blobs(recipe: ModuleType, *shape: int) -> Any:
    """Return (Y, X) or (C or Z, Y, X) uint16, every plane another drawing."""
    if len(shape) == 2:
        return recipe.draw_blobs(0, shape)[0]
    return np.stack([recipe.draw_blobs(seed, shape[1:])[0] for seed in range(shape[0])])


PLANES = {
    "gray": ("YX", (128, 128), "uint16"),
    "gray float": ("YX", (128, 128), "float32"),
    "no multiple of a patch": ("YX", (97, 131), "uint16"),
    "one row": ("YX", (1, 50), "uint16"),
    "1 channel": ("CYX", (1, 128, 128), "uint16"),
    "2 channels": ("CYX", (2, 128, 128), "uint8"),
    "3 channels": ("CYX", (3, 128, 96), "uint16"),
    "4 channels": ("CYX", (4, 128, 96), "int32"),
}
VOLUMES = {"volume": ("ZYX", (3, 64, 96), "uint16"), "colour": ("CZYX", (2, 3, 64, 64), "uint16")}


def drawn(recipe: ModuleType, axes: str, shape: tuple[int, ...], dtype: str) -> Any:
    if axes == "CZYX":
        image = np.stack([blobs(recipe, *shape[1:])] * shape[0])
    else:
        image = blobs(recipe, *shape)
    return (image // 256).astype(dtype) if dtype == "uint8" else image.astype(dtype)


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"), (PLANES | VOLUMES).values(), ids=[*PLANES, *VOLUMES]
)
def test_the_mask_is_micro_sams_own(
    engine: Any, small_checkpoint: Path, recipe: ModuleType, axes: str, shape: Any, dtype: str
) -> None:
    image = drawn(recipe, axes, shape, dtype)
    spatial = len(axes.replace("C", ""))
    mask = engine.segment(image, axes, {"min_size": 20})
    prepared = to_model_image(image, axes)
    expected = with_bytes(small_checkpoint, "ais", prepared, spatial, min_size=20)
    assert mask.dtype == np.uint32
    assert mask.shape == image.shape[-spatial:]
    np.testing.assert_array_equal(mask, expected)
    assert mask.max() > 2 or image.shape[-2] == 1


@pytest.mark.parametrize(("axes", "shape", "dtype"), PLANES.values(), ids=[*PLANES])
def test_with_the_range_of_its_image_a_whole_image_has_the_same_mask_and_a_blank_tile_none(
    engine: Any, recipe: ModuleType, axes: str, shape: Any, dtype: str
) -> None:
    image = drawn(recipe, axes, shape, dtype)
    channels = image if axes == "CYX" else image[np.newaxis]
    ranges = tuple(robust_range(channel) for channel in channels)
    statistics = ImageStatistics(image.shape[-2:], (0, 0), robust_range=ranges)
    np.testing.assert_array_equal(
        engine.segment(image, axes, {}, statistics), engine.segment(image, axes, {})
    )
    lowest = np.array([low for low, _ in ranges]).reshape(-1, *[1] * (len(axes) - 1))
    noise = np.random.default_rng(0).integers(0, 3, image.shape)
    blank = (lowest + noise if axes == "CYX" else lowest[0] + noise).astype(dtype)
    # Of 8 bits, two steps are no noise.
    if dtype != "uint8":
        assert not engine.segment(blank, axes, {}, statistics).any()


def test_the_small_model_has_learnt_to_see_blobs(engine: Any, recipe: ModuleType) -> None:
    unseen = [recipe.draw_blobs(seed) for seed in range(5)]
    scores = [
        recipe.average_precision_50(labels, engine.segment(image, "YX", {}))
        for image, labels in unseen
    ]
    assert np.mean(scores) > 0.8


@pytest.mark.parametrize(
    "parameters", [{}, {"min_size": 150, "foreground_threshold": 0.4}], ids=str
)
@pytest.mark.parametrize(("axes", "shape", "dtype"), PLANES.values(), ids=[*PLANES])
def test_the_way_over_the_embedding_gives_the_same_mask(
    engine: Any,
    recipe: ModuleType,
    axes: str,
    shape: Any,
    dtype: str,
    parameters: dict[str, Any],
) -> None:
    image = drawn(recipe, axes, shape, dtype)
    embedding = engine.encode(image, axes)
    assert embedding["features"].dtype == np.float32
    assert embedding["features"].shape == (1, 256, 8, 8)
    np.testing.assert_array_equal(
        engine.segment_embedding(embedding, parameters), engine.segment(image, axes, parameters)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "0" * 64},
        {"model": "vit_b_lm (ais)"},
        {"features": None},
        {"features": np.zeros((1, 256, 64, 64), np.float32)},
        {"features": np.zeros((1, 256, 8, 8), np.float64)},
        {"original_size": [128, -128]},
        {"original_size": [64, 128]},
        {"original_size": None},
        {"input_size": [128]},
        {"constant": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_foreign_or_damaged_embedding_is_refused(
    engine: Any, recipe: ModuleType, change: dict[str, Any]
) -> None:
    embedding = engine.encode(blobs(recipe, 128, 128), "YX")
    with pytest.raises(EmbeddingsUnsupported, match=next(iter(change))):
        engine.segment_embedding(embedding | change, {})


def test_an_embedding_is_of_a_plane(engine: Any, recipe: ModuleType) -> None:
    with pytest.raises(WrongAxes, match="expected YX or CYX"):
        engine.encode(blobs(recipe, 2, 32, 32), "ZYX")


@pytest.mark.parametrize(
    "options", [{"mode": "amg"}, {"tile_shape": [64, 64], "halo": [8, 8]}], ids=str
)
def test_only_ais_and_apg_without_tiles_have_embeddings(
    small_checkpoint: Path, recipe: ModuleType, options: dict[str, Any]
) -> None:
    other = small_engine(small_checkpoint, **options)
    assert other.describe()["embeddings"] is False
    with pytest.raises(EmbeddingsUnsupported, match="mode ais or apg without tiles"):
        other.encode(blobs(recipe, 64, 64), "YX")
    with pytest.raises(EmbeddingsUnsupported, match="mode ais or apg without tiles"):
        other.segment_embedding({}, {})


@pytest.mark.parametrize(
    ("axes", "shape", "mask_shape"),
    [
        ("YX", (40, 30), (40, 30)),
        ("CYX", (3, 40, 30), (40, 30)),
        ("ZYX", (2, 40, 30), (2, 40, 30)),
    ],
)
def test_a_constant_image_is_empty_and_the_model_is_not_asked(
    engine: Any, monkeypatch: pytest.MonkeyPatch, axes: str, shape: Any, mask_shape: Any
) -> None:
    def fail(_: Any) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(engine._predictor.model.image_encoder, "forward", fail)
    mask = engine.segment(np.full(shape, 7, np.uint16), axes, {})
    assert (mask.shape, mask.dtype, mask.max()) == (mask_shape, np.uint32, 0)


def test_a_constant_image_has_an_embedding_too(engine: Any) -> None:
    embedding = engine.encode(np.full((40, 30), 7, np.uint16), "YX")
    mask = engine.segment_embedding(embedding, {})
    assert (mask.shape, mask.dtype, mask.max()) == ((40, 30), np.uint32, 0)


@pytest.mark.parametrize(
    ("mode", "parameters", "says"),
    [
        ("ais", {"min_sise": 3}, "is unknown, did you mean 'min_size'? expected one of center_d"),
        ("ais", {"pred_iou_thresh": 0.5}, "'pred_iou_thresh' with value 0.5 is unknown"),
        ("ais", {"min_size": 2.5}, "'min_size' is 2.5, expected integer from 0 to"),
        ("ais", {"min_size": True}, "'min_size' is True, expected integer"),
        ("ais", {"min_size": -1}, "'min_size' is -1, expected integer"),
        ("ais", {"foreground_threshold": 1.5}, "is 1.5, expected number from 0.0 to 1.0"),
        ("ais", {"foreground_threshold": float("nan")}, "is nan, expected number"),
        ("ais", {"foreground_threshold": "0.5"}, "is '0.5', expected number"),
        ("ais", {"distance_smoothing": 0}, "is 0, expected number from 0.1 to 20.0"),
        ("ais", {"tile_shape": [64, 64]}, "'tile_shape' with value"),
        ("ais", {"output_mode": "binary_mask"}, "'output_mode' with value"),
        ("amg", {"min_size": 3}, "'min_size' with value 3 is unknown"),
        ("amg", {"with_background": 1}, "'with_background' is 1, expected true or false"),
        ("apg", {"foreground_smoothing": 1.0}, "'foreground_smoothing' with value"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_named_before_any_work(
    small_checkpoint: Path, mode: str, parameters: dict[str, Any], says: str
) -> None:
    own = small_engine(small_checkpoint, mode=mode, device="cpu")
    image = np.eye(32, dtype=np.uint8)
    for call in (
        lambda: own.check_parameters(parameters),
        lambda: own.segment(image, "YX", parameters),
        lambda: own.segment_embedding({}, parameters),
    ):
        with pytest.raises(WrongParameter) as refused:
            call()
        assert says in refused.value.message


@pytest.mark.parametrize(
    ("mode", "class_name", "left_out"),
    [
        (
            "ais",
            "InstanceSegmentationWithDecoder",
            {"tile_shape", "halo", "n_threads", "optimize_memory", "segmentation"},
        ),
        ("amg", "AutomaticMaskGenerator", set()),
        (
            "apg",
            "AutomaticPromptGenerator",
            {"batch_size", "mask_threshold", "refine_with_box_prompts", "prompt_function"},
        ),
    ],
)
def test_parameters_and_defaults_are_those_of_the_installed_micro_sam(
    small_checkpoint: Path, mode: str, class_name: str, left_out: set[str]
) -> None:
    segmenter = getattr(microsam_api.instance_segmentation(), class_name)
    signature = inspect.signature(segmenter.generate)
    theirs = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in {"self", "output_mode"} | left_out
    }
    assert {name: schema["default"] for name, schema in OF_GENERATE[mode].items()} == theirs


TILES = {"tile_shape": (96, 96), "halo": (16, 16)}


@pytest.mark.parametrize(
    ("mode", "axes", "shape", "arguments"),
    [
        ("ais", "YX", (64, 64), {"n_threads": 1}),
        ("ais", "YX", (150, 200), {"n_threads": 1}),
        ("ais", "CYX", (3, 150, 110), {"n_threads": 1}),
        ("ais", "ZYX", (2, 64, 110), {}),
        ("apg", "YX", (64, 110), {}),
    ],
    ids=str,
)
def test_tiles_are_micro_sams_own(
    small_checkpoint: Path,
    recipe: ModuleType,
    mode: str,
    axes: str,
    shape: tuple[int, ...],
    arguments: dict[str, int],
) -> None:
    tiled = small_engine(small_checkpoint, mode=mode, device="cpu", **TILES)
    image = blobs(recipe, *shape)
    spatial = len(axes.replace("C", ""))
    mask = tiled.segment(image, axes, {})
    expected = with_bytes(
        small_checkpoint, mode, to_model_image(image, axes), spatial, **TILES, **arguments
    )
    assert mask.dtype == np.uint32
    assert mask.shape == shape[-spatial:]
    assert mask.max() > 2
    np.testing.assert_array_equal(mask, expected)


def test_tiles_give_the_same_mask_every_time(small_checkpoint: Path, recipe: ModuleType) -> None:
    """With several threads micro-sam 1.8 gives one of several masks, in a third of the calls."""
    tiled = small_engine(small_checkpoint, device="cpu", **TILES)
    image = blobs(recipe, 200, 300)
    masks = [tiled.segment(image, "YX", {}) for _ in range(8)]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


@pytest.mark.parametrize(("mode", "parameters"), [("amg", ACCEPT_ANY_MASK), ("apg", {})])
def test_other_modes_are_micro_sams_own(
    small_checkpoint: Path, recipe: ModuleType, mode: str, parameters: dict[str, Any]
) -> None:
    own = small_engine(small_checkpoint, mode=mode, device="cpu")
    image = blobs(recipe, 40, 48)
    mask = own.segment(image, "YX", parameters)
    expected = directly(small_checkpoint, mode, to_model_image(image, "YX"), 2, **parameters)
    assert mask.dtype == np.uint32
    # The drawing has two objects; how many this mode finds is the trained model's affair.
    assert mask.any()
    np.testing.assert_array_equal(mask, expected)


def test_images_do_not_colour_each_other(engine: Any, recipe: ModuleType) -> None:
    first, second = blobs(recipe, 2, 128, 128)
    alone = engine.segment(first, "YX", {})
    engine.segment(second, "YX", {})
    engine.encode(second, "YX")
    np.testing.assert_array_equal(engine.segment(first, "YX", {}), alone)


def out_of_memory_on_the_gpu() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (out_of_memory_on_the_gpu, r"out of memory on cpu with an image of \(64, 64\) px"),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (MemoryError, "out of memory"),
        (lambda: ValueError("two\nlines"), "micro-sam failed with ValueError: two lines"),
    ],
    ids=["gpu", "cpu", "python", "other"],
)
def test_a_failure_is_named_and_leaves_nothing_behind(
    engine: Any,
    recipe: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    raised: Callable[[], Exception],
    says: str,
) -> None:
    image = blobs(recipe, 64, 64)
    expected = engine.segment(image, "YX", {})
    embedding = engine.encode(image, "YX")

    def fail(*_: Any, **__: Any) -> None:
        raise raised()

    for owner, method in (
        (engine._segmenter._decoder, "_forward_impl"),
        (type(engine._segmenter), "generate"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, fail)
            for call in (
                lambda: engine.segment(image, "YX", {}),
                lambda: engine.segment_embedding(embedding, {}),
            ):
                with pytest.raises(SegmentationFailed, match=says):
                    call()
    np.testing.assert_array_equal(engine.segment(image, "YX", {}), expected)


@pytest.mark.parametrize("mode", ["amg", "apg"])
def test_a_failure_leaves_no_image_in_micro_sams_objects(
    small_checkpoint: Path, recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    engine = small_engine(small_checkpoint, device="cpu", mode=mode)
    image = blobs(recipe, 64, 64)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(engine._predictor, "predict_torch", fail)
        with pytest.raises(SegmentationFailed, match=r"out of memory on cpu with an image of"):
            engine.segment(image, "YX", {})
    assert engine._predictor.features is None
    assert not engine._segmenter.is_initialized


def test_the_description_names_all_that_shapes_labels(engine: Any, small_checkpoint: Path) -> None:
    described = engine.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["engine"] == "microsam-small"
    assert described["model"] == f"{small_checkpoint.name} (ais)"
    assert described["model_sha256"] == hashlib.sha256(small_checkpoint.read_bytes()).hexdigest()
    assert described["embeddings"] is True
    assert (described["device"], described["gpu"]) == ("cpu", None)
    assert described["model_cache"] == str(small_checkpoint.resolve().parent)
    assert set(described["versions"]) >= {"micro_sam", "torch"}
    tiled = small_engine(small_checkpoint, device="cpu", tile_shape=[64, 32], halo=[8, 4])
    assert tiled.describe()["model"].endswith("(ais, tiles 64x32 px, halo 8x4 px)")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "vit_b_lmm"}, r"model 'vit_b_lmm' is unknown, expected one of .*\bvit_b_lm\b"),
        ({"model": "vit_b_lm_decoder"}, "is unknown"),
        ({"mode": "asi"}, "mode 'asi' is unknown, expected auto, ais, amg, apg"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"checkpoint": "nowhere.pt"}, "checkpoint 'nowhere.pt' is not a file"),
        ({"tile_shape": [64, 64]}, r"tile_shape \[64, 64\] and halo None, expected both"),
        ({"tile_shape": [64], "halo": [8, 8]}, "expected both as"),
        ({"tile_shape": [64, 0], "halo": [8, 8]}, "expected both as"),
        ({"tile_shape": [64, 64.0], "halo": [8, 8]}, "expected both as"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongParameter, match=says):
        MicroSamEngine(**{"device": "cpu"} | options)


BROKEN = ModuleType("mobile_sam")


@pytest.mark.parametrize(
    "options", [{"model": "vit_t_lm"}, {"model": "vit_t", "checkpoint": __file__}]
)
@pytest.mark.parametrize(
    ("installed", "reason"),
    [(None, "import of mobile_sam halted"), (BROKEN, "the installed mobile_sam is not the one of")],
)
def test_vit_t_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    installed: ModuleType | None,
    reason: str,
) -> None:
    monkeypatch.setattr(microsam_api.util(), "VIT_T_SUPPORT", False)
    monkeypatch.setitem(sys.modules, "mobile_sam", installed)
    with pytest.raises(WrongParameter) as refused:
        MicroSamEngine(device="cpu", **options)
    assert refused.value.message.startswith(
        f"model {options['model']!r} needs the module mobile_sam, which cannot be imported ("
    )
    assert reason in refused.value.message
    assert refused.value.message.endswith("; expected: pip install mobilesam-mirror")


def test_the_known_models_are_listed_with_what_vit_t_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = "(vit_t needs mobilesam-mirror, which is missing)"
    for supported in (True, False):
        monkeypatch.setattr(microsam_api.util(), "VIT_T_SUPPORT", supported)
        with pytest.raises(WrongParameter) as refused:
            MicroSamEngine("vit_tiny", device="cpu")
        said = refused.value.message
        assert "'vit_tiny' is unknown, expected one of vit_" in said and "vit_t_lm, " in said
        assert said.endswith(needs) != supported


USE_VIT_T = """
import sys
import numpy as np, torch
from samservice.engines import microsam_api
from samservice.engines.microsam import MicroSamEngine

util, checkpoint = microsam_api.util(), sys.argv[1]
torch.manual_seed(0)
sam = util.sam_model_registry["vit_t"]()
decoder = microsam_api.instance_segmentation().get_unetr(sam.image_encoder).state_dict()
torch.save({
    "model_state": sam.state_dict(),
    "decoder_state": {n: value for n, value in decoder.items() if not n.startswith("encoder")},
}, checkpoint)
engine = MicroSamEngine("vit_t", checkpoint, device="cpu")
image = (np.arange(90 * 120).reshape(90, 120) // 1000 * 20).astype(np.uint8)
own = engine._predictor
direct = util.precompute_image_embeddings(own, image, ndim=2, verbose=False)["features"]
features = engine.encode(image, "YX", {"normalization": "minmax"})["features"]
assert np.array_equal(features, direct) and features.std() > 0, (features, direct)
print(engine.describe()["model"], *features.shape, type(sam.image_encoder).__name__)
"""


@pytest.mark.slow
def test_vit_t_is_built_where_mobile_sam_is_importable(tmp_path: Path) -> None:
    if not MOBILE_SAM.exists():
        pytest.fail(f"{MOBILE_SAM} is missing: make build/microsam/vit_t/installed", pytrace=False)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", USE_VIT_T, str(tmp_path / "random.pt")],
        env={**os.environ, "PYTHONPATH": str(MOBILE_SAM.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == "random.pt (ais) 1 256 64 64 TinyViT"


def test_a_failed_download_says_where_the_weights_belong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path))
    # A proxy that nobody serves cuts the machine off, wherever the test runs.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SegmentationFailed) as failed:
        MicroSamEngine(model="vit_b_lm", device="cpu")
    for part in (str(tmp_path / "models"), "$MICROSAM_CACHEDIR", "vit_b_lm_decoder"):
        assert part in failed.value.message
    assert "\n" not in failed.value.message


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"these are no weights")
    with pytest.raises(WrongParameter, match=r"weights\.pt' cannot be read as weights alone"):
        MicroSamEngine(checkpoint=str(path), device="cpu")


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript archive")
def test_a_checkpoint_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trace),)

    import torch

    def check_not_run() -> None:
        with pytest.raises(WrongParameter, match="set trust_checkpoint if you trust"):
            MicroSamEngine(checkpoint=str(path), device="cpu")
        assert not trace.exists()

    def check_is_program() -> None:
        with pytest.raises(WrongParameter, match="cannot be loaded"):
            MicroSamEngine(checkpoint=str(path), device="cpu", trust_checkpoint=True)
        assert trace.exists(), "the checkpoint would have been harmless"
        trace.rmdir()

    for legacy in (False, True):
        torch.save({"model_state": Evil()}, path, _use_new_zipfile_serialization=not legacy)
        check_not_run()
    check_is_program()
    # torch's restricted reader refuses these two for their format, whatever is in them.
    with tarfile.open(path, "w") as archive:
        content = pickle.dumps(Evil())
        entry = tarfile.TarInfo("storages")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    check_not_run()
    check_is_program()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    check_not_run()


@pytest.mark.slow
def test_micro_sams_own_checkpoints_are_loaded(tmp_path: Path) -> None:
    import torch
    from torch_em.model import UNETR

    sam = microsam_api.build_sam().build_sam_vit_b()
    unetr = UNETR(encoder=sam.image_encoder, out_channels=3, use_skip_connection=False)
    weights = {name: value.half() for name, value in sam.state_dict().items()}
    decoder = {
        name: value for name, value in unetr.state_dict().items() if not name.startswith("encoder")
    }
    with_decoder, without = tmp_path / "finetuned.pt", tmp_path / "sam_vit_b.pth"
    prefixed = {f"sam.{name}": value for name, value in weights.items()}
    torch.save({"model_state": prefixed, "decoder_state": decoder}, with_decoder)
    torch.save(weights, without)
    unpickler = pickle.Unpickler

    modes = {
        path.name: MicroSamEngine("vit_b", str(path), device="cpu").describe()["mode"]
        for path in (with_decoder, without)
    }
    assert modes == {"finetuned.pt": "ais", "sam_vit_b.pth": "amg"}
    with pytest.raises(WrongParameter, match="does not contain a decoder"):
        MicroSamEngine("vit_b", str(without), mode="ais", device="cpu")
    assert pickle.Unpickler is unpickler


def test_every_refusal_crosses_the_wire_as_one_line(engine: Any) -> None:
    with pytest.raises(ServiceError) as refused:
        engine.check_parameters({"min_size": "many"})
    assert str(refused.value).startswith("[samservice.WrongParameter] ")
    assert "\n" not in str(refused.value)
