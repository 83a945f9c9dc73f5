"""What a model is given, for every number of channels."""

from __future__ import annotations

import numpy as np
import pytest

from samservice.contract.channels import is_constant, normalise, to_gray, to_model_image
from samservice.contract.errors import WrongAxes

RAMP = np.arange(1000, dtype=np.uint16).reshape(20, 50)


def channels(count: int, *shape: int) -> np.ndarray:
    """(C, *shape) uint16, each channel brighter than the last and none like another."""
    rng = np.random.default_rng(3)
    return np.stack([rng.integers(0, 100 * 4**c, shape, np.uint16) for c in range(count)])


def test_percentiles_1_and_99_8_become_0_and_1() -> None:
    stretched = normalise(RAMP)
    low, high = np.percentile(RAMP, (1, 99.8))
    assert stretched.dtype == np.float32
    assert stretched.min() == 0 and stretched.max() == 1
    np.testing.assert_allclose(
        stretched, np.clip((RAMP - low) / (high - low), 0, 1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int64", "f2", "f4", "f8"])
def test_the_pixel_type_changes_nothing(dtype: str) -> None:
    image = (RAMP % 128).astype(dtype)
    np.testing.assert_array_equal(normalise(image), normalise(RAMP % 128))


def test_a_contrast_beyond_the_24_bits_of_float32_is_kept() -> None:
    image = RAMP.astype(np.int64) + 2**40
    np.testing.assert_allclose(normalise(image), normalise(RAMP), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_channel_becomes_zeros(value: int) -> None:
    image = np.full((5, 6), value, np.uint16)
    assert not normalise(image).any()
    assert is_constant(image)


def test_a_few_bright_pixels_on_a_clean_background_are_kept() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[3, 4:8] = 200
    assert normalise(image).sum() == 4


def test_the_given_image_is_not_changed() -> None:
    image = channels(3, 8, 9).astype(np.float32)
    before = image.copy()
    to_gray(image, "CYX")
    to_model_image(image, "CYX")
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("axes", "shape", "gray_shape"),
    [
        ("YX", (8, 9), (8, 9)),
        ("CYX", (1, 8, 9), (8, 9)),
        ("CYX", (4, 8, 9), (8, 9)),
        ("ZYX", (5, 8, 9), (5, 8, 9)),
        ("CZYX", (2, 5, 8, 9), (5, 8, 9)),
    ],
)
def test_gray_has_the_axes_of_the_mask(
    axes: str, shape: tuple[int, ...], gray_shape: tuple[int, ...]
) -> None:
    gray = to_gray(channels(1, *shape)[0], axes)
    assert gray.shape == gray_shape and gray.dtype == np.float32


def test_gray_of_several_channels_is_the_mean_of_the_normalised_ones() -> None:
    image = channels(3, 8, 9)
    expected = np.mean([normalise(channel) for channel in image], axis=0)
    np.testing.assert_allclose(to_gray(image, "CYX"), expected, rtol=1e-6)


def test_gray_of_one_channel_is_the_same_with_and_without_its_axis() -> None:
    image = channels(1, 8, 9)
    np.testing.assert_array_equal(to_gray(image, "CYX"), to_gray(image[0], "YX"))


@pytest.mark.parametrize(
    ("axes", "shape", "model_shape"),
    [
        ("YX", (8, 9), (8, 9)),
        ("CYX", (1, 8, 9), (8, 9)),
        ("CYX", (2, 8, 9), (8, 9, 3)),
        ("CYX", (3, 8, 9), (8, 9, 3)),
        ("CYX", (4, 8, 9), (8, 9)),
        ("CYX", (3, 3, 3), (3, 3, 3)),
        ("ZYX", (3, 8, 9), (3, 8, 9)),
        ("CZYX", (2, 5, 8, 9), (5, 8, 9)),
        ("CZYX", (3, 5, 8, 9), (5, 8, 9)),
    ],
)
def test_the_models_image_has_the_shape_micro_sam_takes(
    axes: str, shape: tuple[int, ...], model_shape: tuple[int, ...]
) -> None:
    prepared = to_model_image(channels(1, *shape)[0], axes)
    assert prepared.shape == model_shape and prepared.dtype == np.uint8
    assert not is_constant(prepared)


def test_the_models_image_uses_all_256_values() -> None:
    prepared = to_model_image(RAMP, "YX")
    assert np.unique(prepared).tolist() == list(range(256))


@pytest.mark.parametrize("count", [2, 3])
def test_channels_keep_their_order_and_a_missing_third_is_black(count: int) -> None:
    image = channels(count, 8, 9)
    prepared = to_model_image(image, "CYX")
    for index in range(count):
        np.testing.assert_array_equal(prepared[..., index], to_model_image(image[index], "YX"))
    assert prepared[..., count:].sum() == 0


def test_channels_that_are_each_constant_give_the_model_a_constant_image() -> None:
    image = np.stack([np.full((4, 5), 10), np.full((4, 5), 90)])
    assert is_constant(to_model_image(image, "CYX")) and is_constant(to_gray(image, "CYX"))
    assert not is_constant(image)


@pytest.mark.parametrize(
    ("axes", "shape"), [("YXC", (4, 5, 3)), ("YX", (2, 4, 5)), ("CYX", (4, 5)), ("", (4, 5))]
)
def test_axes_that_do_not_fit_are_named(axes: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongAxes, match=f"axes '{axes}' with an image of {len(shape)} dimensions"):
        to_gray(np.zeros(shape), axes)
    with pytest.raises(WrongAxes):
        to_model_image(np.zeros(shape), axes)
