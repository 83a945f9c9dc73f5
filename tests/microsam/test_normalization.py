"""``normalization`` and volumes, against micro-sam called directly and against drawn truth."""

from __future__ import annotations

import importlib.util
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

from samservice.contract.errors import EmbeddingsUnsupported, WrongParameter
from samservice.contract.image_statistics import ImageStatistics
from samservice.contract.normalization import robust_range
from samservice.engines import microsam_api
from samservice.engines.microsam_parameters import OF_MERGING
from samservice.engines.microsam_volume import merge_planes

from .test_microsam_engine import ACCEPT_ANY_MASK, TILES, blobs, directly, small_engine

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]

MINMAX = {"normalization": "minmax"}
SHARED = Path(__file__).parents[3] / "shared/images"


def for_micro_sam(image: Any, axes: str) -> Any:
    """Return the image with its channels last, where micro-sam expects them."""
    return np.moveaxis(image, 0, -1) if axes == "CYX" else image


def hot(image: Any) -> Any:
    image = image.copy()
    image[..., 5, 7] = 65535
    return image


IMAGES = {
    "gray": ("YX", lambda recipe: blobs(recipe, 128, 128)),
    "other gray": ("YX", lambda recipe: recipe.draw_blobs(3, (97, 131))[0]),
    "hot pixel": ("YX", lambda recipe: hot(blobs(recipe, 128, 128))),
    "float": ("YX", lambda recipe: blobs(recipe, 128, 128) / 7.3 - 100),
    "float32": ("YX", lambda recipe: (blobs(recipe, 64, 96) / 65535).astype(np.float32)),
    "8 bit": ("YX", lambda recipe: (blobs(recipe, 128, 128) // 256).astype(np.uint8)),
    "signed": ("YX", lambda recipe: blobs(recipe, 90, 128).astype(np.int32) - 9000),
    "noise": ("YX", lambda _: np.random.default_rng(0).normal(300, 20, (128, 128))),
    "1 channel": ("CYX", lambda recipe: blobs(recipe, 1, 128, 128)),
    "2 channels": ("CYX", lambda recipe: blobs(recipe, 2, 128, 128)),
    "3 channels": ("CYX", lambda recipe: blobs(recipe, 3, 128, 96)),
    "5 channels": ("CYX", lambda recipe: blobs(recipe, 5, 128, 96)),
    "volume": ("ZYX", lambda recipe: blobs(recipe, 3, 64, 96)),
}


@pytest.mark.filterwarnings("ignore:You provided an input with 5 channels")
@pytest.mark.parametrize("name", IMAGES)
def test_minmax_is_micro_sams_own_call(
    engine: Any, small_checkpoint: Path, recipe: ModuleType, name: str
) -> None:
    axes, draw = IMAGES[name]
    image = draw(recipe)
    spatial = len(axes.replace("C", ""))
    mask = engine.segment(image, axes, {**MINMAX, "min_size": 20})
    expected = directly(small_checkpoint, "ais", for_micro_sam(image, axes), spatial, min_size=20)
    np.testing.assert_array_equal(mask, expected)
    if axes != "ZYX":
        channels = image if axes == "CYX" else image[np.newaxis]
        ranges = tuple((float(each.min()), float(each.max())) for each in channels)
        own = ImageStatistics(image.shape[-2:], (0, 0), full_range=ranges)
        np.testing.assert_array_equal(
            engine.segment(image, axes, {**MINMAX, "min_size": 20}, own), expected
        )


@pytest.mark.parametrize(
    ("mode", "axes", "shape", "arguments"),
    [
        ("ais", "YX", (150, 200), {"n_threads": 1}),
        ("ais", "CYX", (3, 150, 110), {"n_threads": 1}),
        ("ais", "ZYX", (2, 64, 110), {}),
        ("apg", "YX", (64, 110), {}),
    ],
    ids=str,
)
def test_minmax_is_micro_sams_own_call_with_its_tiles(
    small_checkpoint: Path, recipe: ModuleType, mode: str, axes: str, shape: Any, arguments: Any
) -> None:
    image = blobs(recipe, *shape)
    tiled = small_engine(small_checkpoint, mode=mode, device="cpu", **TILES)
    expected = directly(
        small_checkpoint,
        mode,
        for_micro_sam(image, axes),
        len(axes.replace("C", "")),
        **TILES,
        **arguments,
    )
    np.testing.assert_array_equal(tiled.segment(image, axes, MINMAX), expected)
    assert expected.any()


@pytest.mark.parametrize(("mode", "parameters"), [("amg", ACCEPT_ANY_MASK), ("apg", {})])
def test_minmax_is_micro_sams_own_call_in_other_modes(
    small_checkpoint: Path, recipe: ModuleType, mode: str, parameters: dict[str, Any]
) -> None:
    image = blobs(recipe, 40, 48)
    own = small_engine(small_checkpoint, mode=mode, device="cpu")
    expected = directly(small_checkpoint, mode, image, 2, **parameters)
    np.testing.assert_array_equal(own.segment(image, "YX", MINMAX | parameters), expected)


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is absent")
def test_minmax_is_micro_sams_own_call_on_real_nuclei(engine: Any, small_checkpoint: Path) -> None:
    image = tifffile.imread(SHARED / "nuclei2d.tif")
    expected = directly(small_checkpoint, "ais", image, 2)
    np.testing.assert_array_equal(engine.segment(image, "YX", MINMAX), expected)
    assert expected.max() > 10


@pytest.mark.parametrize("mode", ["ais", "apg"])
@pytest.mark.parametrize("normalization", ["robust", "minmax", "none"])
def test_an_embedding_is_of_one_normalization(
    small_checkpoint: Path, recipe: ModuleType, mode: str, normalization: str
) -> None:
    own = small_engine(small_checkpoint, mode=mode, device="cpu")
    assert own.describe()["embedding_parameters"] == ["normalization"]
    image = (blobs(recipe, 64, 48) // 256).astype(np.uint8)
    parameters = {"normalization": normalization, "min_size": 5}
    embedding = own.encode(image, "YX", {"normalization": normalization})
    expected = own.segment(image, "YX", parameters)
    np.testing.assert_array_equal(own.segment_embedding(embedding, parameters), expected)
    other = "minmax" if normalization == "robust" else "robust"
    with pytest.raises(EmbeddingsUnsupported, match=f"normalization is '{normalization}'"):
        own.segment_embedding(embedding, parameters | {"normalization": other})


def test_none_gives_the_encoder_the_pixels_themselves(engine: Any, recipe: ModuleType) -> None:
    image = blobs(recipe, 128, 128)
    low, high = robust_range(image)
    stretched = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255)
    expected = engine.segment(image, "YX", {})
    assert expected.max() > 10
    for dtype in (np.uint8, np.int32, np.float64):
        mask = engine.segment(stretched.astype(dtype), "YX", {"normalization": "none"})
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("tiles", [{}, TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize(("normalization", "low", "high"), [("none", 60, 160), ("minmax", 0, 255)])
def test_the_encoder_gets_the_range_of_the_normalization(
    small_checkpoint: Path, normalization: str, low: int, high: int, tiles: dict[str, Any]
) -> None:
    """Read from the encoder itself, where micro-sam's padding is the mean of SAM's own images."""
    own = small_engine(small_checkpoint, device="cpu", **tiles)
    image = np.full((128, 128), 60, np.uint8)
    image[8:40, 8:40] = image[80:120, 80:120] = 160
    seen = []
    sam = own._predictor.model

    def read(_: Any, arguments: Any) -> None:
        bytes_ = arguments[0] * sam.pixel_std + sam.pixel_mean
        seen.extend([float(bytes_.min()), float(bytes_.max())])

    with sam.image_encoder.register_forward_pre_hook(read):
        own.segment(image, "YX", {"normalization": normalization})
    assert (round(min(seen)), round(max(seen))) == (low, high)


@pytest.mark.parametrize(
    ("pixel", "dtype"), [(256, "uint16"), (-1, "int16"), (0.5, "float32"), (65535, "float64")]
)
def test_none_refuses_what_is_no_byte(engine: Any, pixel: float, dtype: str) -> None:
    image = np.zeros((16, 16), dtype)
    image[3, 4] = pixel
    with pytest.raises(WrongParameter, match=r"normalization none .* whole numbers from 0 to 255"):
        engine.segment(image, "YX", {"normalization": "none"})


def sparse_field(recipe: ModuleType, noise: float) -> tuple[Any, Any]:
    """Return a field of (1024, 1024) uint16 with 6 nuclei, 0.1 % of its pixels, and their labels.

    They lie in its first 128 x 128 px.
    """
    rng = np.random.default_rng(1)
    y, x = np.ogrid[:128, :128]
    labels = np.zeros((1024, 1024), np.uint32)
    for number, (at_y, at_x) in enumerate(
        [(20, 20), (25, 70), (60, 40), (70, 100), (100, 20), (105, 70)], start=1
    ):
        labels[:128, :128][(y - at_y) ** 2 + (x - at_x) ** 2 < 8**2] = number
    field = 3000.0 * (labels > 0) + rng.normal(300, noise, labels.shape)
    return field.clip(0, 65535).astype(np.uint16), labels


@pytest.mark.parametrize("hot_count", [0, 1, 10])
@pytest.mark.parametrize("noise", [0, 20, 100])
def test_the_nuclei_of_a_sparse_field_are_found_in_its_tile(
    engine: Any, recipe: ModuleType, noise: float, hot_count: int
) -> None:
    """The model shrinks a whole field, so the field's statistics come with a tile of it."""
    field, labels = sparse_field(recipe, noise)
    field[-1, :hot_count] = 65535
    statistics = ImageStatistics(field.shape, (0, 0), robust_range=(robust_range(field),))
    mask = engine.segment(field[:128, :128], "YX", {}, statistics)
    assert recipe.average_precision_50(labels[:128, :128], mask) == 1
    blank = engine.segment(field[512:640, 512:640], "YX", {}, statistics)
    assert not blank.any()


def test_one_hot_pixel_changes_little(engine: Any, recipe: ModuleType) -> None:
    drawn = [recipe.draw_blobs(seed) for seed in range(3)]
    for image, labels in drawn:
        mask = engine.segment(hot(image), "YX", {})
        assert recipe.average_precision_50(labels, mask) > 0.8


@pytest.mark.parametrize("pixels", ["gaussian", "poisson 1", "poisson 20", "one hot pixel"])
def test_an_image_of_noise_alone_has_no_object(engine: Any, pixels: str) -> None:
    rng = np.random.default_rng(0)
    image = {
        "gaussian": rng.normal(300, 20, (160, 200)),
        "poisson 1": rng.poisson(1, (160, 200)),
        "poisson 20": rng.poisson(20, (160, 200)) * 20,
        "one hot pixel": hot(rng.normal(300, 20, (160, 200))),
    }[pixels].astype(np.uint16)
    assert not engine.segment(image, "YX", {}).any()
    assert not engine.segment(np.stack([image] * 2), "CYX", {}).any()
    assert not engine.segment_embedding(engine.encode(image, "YX"), {}).any()


# Volumes


def stack(recipe: ModuleType, blank: str) -> tuple[Any, Any]:
    """Return a volume and its labels (8, 96, 96), with blank planes 0, 4 and 7."""
    image, labels = recipe.draw_blobs(5, (96, 96))
    rng = np.random.default_rng(2)
    volume = np.stack([rng.poisson(image / 20) * 20 for _ in range(8)]).astype(np.uint16)
    truth = np.stack([labels] * 8)
    for z in (0, 4, 7):
        volume[z] = 400 if blank == "constant" else rng.poisson(20, (96, 96)) * 20
        truth[z] = 0
    return volume, truth


@pytest.mark.parametrize("blank", ["constant", "noise"])
def test_blank_planes_of_a_volume_have_no_object(
    engine: Any, recipe: ModuleType, blank: str
) -> None:
    volume, truth = stack(recipe, blank)
    mask = engine.segment(volume, "ZYX", {})
    assert not mask[[0, 4, 7]].any()
    planes = [1, 2, 3, 5, 6]
    scores = [recipe.average_precision_50(truth[z], mask[z]) for z in planes]
    assert np.mean(scores) > 0.7
    if blank == "constant":
        assert not engine.segment(volume, "ZYX", MINMAX)[[0, 4, 7]].any()


def test_the_parameters_of_merging_are_micro_sams(
    engine: Any, small_checkpoint: Path, recipe: ModuleType
) -> None:
    volume = blobs(recipe, 5, 64, 96)
    volume[2] = volume[1]
    for merging in ({"gap_closing": 1}, {"min_z_extent": 2}, {"with_background": False}):
        mask = engine.segment(volume, "ZYX", MINMAX | merging)
        expected = directly(small_checkpoint, "ais", volume, 3, **merging)
        np.testing.assert_array_equal(mask, expected)
    assert engine.segment(volume, "ZYX", {"min_z_extent": 2}).max() > 1


@pytest.mark.parametrize(
    ("mode", "tiles", "generate", "merging"),
    [
        ("ais", {}, {"min_size": 20}, {"gap_closing": 1, "min_z_extent": 2}),
        ("ais", TILES, {}, {"gap_closing": 1, "min_z_extent": 2, "with_background": False}),
        ("apg", {}, {"nms_threshold": 0.8}, {"min_z_extent": 2, "with_background": False}),
    ],
    ids=str,
)
def test_modes_with_a_decoder_take_the_parameters_of_merging(
    small_checkpoint: Path,
    recipe: ModuleType,
    mode: str,
    tiles: dict[str, Any],
    generate: dict[str, Any],
    merging: dict[str, Any],
) -> None:
    volume = blobs(recipe, 3, 64, 110)
    own = small_engine(small_checkpoint, mode=mode, device="cpu", **tiles)
    mask = own.segment(volume, "ZYX", MINMAX | generate | merging)
    expected = directly(small_checkpoint, mode, volume, 3, **tiles, **generate, **merging)
    np.testing.assert_array_equal(mask, expected)
    assert expected.any()


def test_the_parameters_and_defaults_of_merging_are_those_of_the_installed_micro_sam() -> None:
    micro_sam = microsam_api.multi_dimensional_segmentation()
    inputs = {"volume", "predictor", "segmentor", "embedding_path", "tile_shape", "halo"}
    running = {"verbose", "return_embeddings", "batch_size", "kwargs"}
    theirs = {
        name: parameter.default or 0
        for name, parameter in signature(micro_sam.automatic_3d_segmentation).parameters.items()
        if name not in inputs | running
    }
    assert {name: schema["default"] for name, schema in OF_MERGING.items()} == theirs


def test_beta_of_the_merging_has_no_effect_and_is_no_parameter(recipe: ModuleType) -> None:
    """A release in which this fails makes it worth a parameter."""
    _, plane = recipe.draw_blobs(5, (96, 96))
    count = int(plane.max())
    moved = np.stack([np.roll(plane, 10 * z, axis=1) for z in range(4)])
    labels = np.where(moved, moved + count * np.arange(4)[:, None, None], 0).astype(np.uint32)
    merge = microsam_api.multi_dimensional_segmentation().merge_instance_segmentation_3d
    merged = [merge(labels, beta=beta, verbose=False) for beta in (0.01, 0.5, 0.99)]
    assert count < len(np.unique(merged[1])) - 1 < 4 * count
    np.testing.assert_array_equal(merged[0], merged[1])
    np.testing.assert_array_equal(merged[2], merged[1])


@pytest.mark.parametrize(
    ("planes", "gap_closing", "same_as_micro_sam"),
    [
        ("A.BBBBB", 2, False),
        ("AAAA.B", 2, False),
        (".AABBB", 1, True),
        ("AA.AABB", 1, True),
        ("AABBB.", 1, True),
        ("AB.BA", 0, True),
    ],
)
def test_two_objects_never_get_one_label(
    planes: str, gap_closing: int, same_as_micro_sam: bool
) -> None:
    corners = {"A": np.s_[2:10, 2:10], "B": np.s_[25:33, 25:33]}
    labels = np.zeros((len(planes), 40, 40), np.uint32)
    for z, name in enumerate(planes):
        if name != ".":
            labels[z][corners[name]] = labels.max() + 1
    merged = merge_planes(labels.copy(), gap_closing=gap_closing)
    own = {name: set(np.unique(merged[:, *corner])) - {0} for name, corner in corners.items()}
    assert own["A"] and own["B"] and not own["A"] & own["B"]
    merge = microsam_api.multi_dimensional_segmentation().merge_instance_segmentation_3d
    theirs = merge(labels, verbose=False, gap_closing=gap_closing)
    assert np.array_equal(merged, theirs) is same_as_micro_sam


def test_gap_closing_bridges_a_blank_plane(engine: Any, recipe: ModuleType) -> None:
    volume, _ = stack(recipe, "noise")
    closed = engine.segment(volume, "ZYX", {"gap_closing": 1})
    assert closed[4].any()
    through = set(np.unique(closed[3])) & set(np.unique(closed[4])) & set(np.unique(closed[5]))
    assert len(through - {0}) > 3


def test_min_z_extent_removes_objects_of_few_planes(engine: Any, recipe: ModuleType) -> None:
    volume, _ = stack(recipe, "noise")
    mask = engine.segment(volume, "ZYX", {"min_z_extent": 3})
    assert mask[:4].any()
    assert not mask[5:7].any()


def test_the_parameters_of_merging_do_nothing_to_a_plane(engine: Any, recipe: ModuleType) -> None:
    image = blobs(recipe, 128, 128)
    parameters = {"gap_closing": 2, "min_z_extent": 3, "with_background": False}
    np.testing.assert_array_equal(
        engine.segment(image, "YX", parameters), engine.segment(image, "YX", {})
    )
