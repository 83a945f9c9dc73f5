"""The range that becomes black and white: sparse fields, hot pixels, constant and empty images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samservice.contract.channels import intensity_range
from samservice.contract.normalization import minmax_bytes, robust_range

RNG = np.random.default_rng(0)


def field(
    noise: float = 20.0, object_px: int = 0, hot_px: int = 0, side: int = 512, slope: float = 0.0
) -> Any:
    """Return a background of 300 with noise, a block of 3000 and pixels of 65535, uint16."""
    image = 300 + np.linspace(0, slope, side) + RNG.normal(0, noise, (side, side))
    image.ravel()[side * 100 :][:object_px] = 3000 + RNG.normal(0, noise, object_px)
    image.ravel()[:hot_px] = 65535
    return image.clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("hot_px", [0, 1, 10])
@pytest.mark.parametrize(
    "image",
    [
        {"object_px": 300},
        {"object_px": 40},
        {"object_px": 2000},
        {"object_px": 300, "noise": 0},
        {"object_px": 300, "noise": 200},
        {"object_px": 300, "slope": 300},
        {"object_px": 5000, "side": 2048},
    ],
    ids=str,
)
def test_the_objects_of_a_sparse_field_keep_their_contrast(
    image: dict[str, Any], hot_px: int, dtype: Any
) -> None:
    """An eighth of the objects' pixels may be white, and never is a hot pixel."""
    noise = image.get("noise", 20)
    low, high = robust_range(field(**image, hot_px=hot_px).astype(dtype))
    assert low <= 300
    assert 3000 <= high <= 3000 + 5 * noise


@pytest.mark.parametrize(
    "image",
    [
        field(),
        field(hot_px=1),
        field(hot_px=16),
        field(object_px=5000),
        field(object_px=50_000, hot_px=3),
        field(object_px=200_000),
        RNG.poisson(20, (512, 512)).astype(np.uint16),
        RNG.integers(0, 65536, (300, 200)).astype(np.uint16),
        # A texture: the dark and bright sides of cells, and one bright speck.
        np.where(np.arange(2**18) % 50 < 3, 5000, 9000) + RNG.normal(0, 50, 2**18),
        np.arange(30),
        np.array([3.0]),
    ],
)
def test_other_images_keep_the_percentiles(image: Any) -> None:
    assert robust_range(image) == intensity_range(image)


def test_a_bright_speck_on_a_texture_is_no_object_of_a_sparse_field() -> None:
    texture = np.where(np.arange(2**18) % 50 < 3, 5000, 9000) + RNG.normal(0, 50, 2**18)
    texture[:60] = 30_000
    assert robust_range(texture) == intensity_range(texture)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((64, 64), 7, np.uint16), (7, 7)),
        (np.zeros((64, 64), np.uint8), (0, 0)),
        # Fewer than 16 bright pixels on a clean background: nothing else to take.
        (np.r_[np.zeros(5000), np.full(9, 50.0)], (0, 50)),
    ],
)
def test_constant_and_almost_constant_images(image: Any, expected: tuple[float, float]) -> None:
    assert robust_range(image) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_minmax_bytes_reach_black_and_white(dtype: Any) -> None:
    channel = RNG.integers(3, 120, (40, 50)).astype(dtype)
    scaled = minmax_bytes(channel, (float(channel.min()), float(channel.max())))
    assert (scaled.dtype, scaled.min(), scaled.max()) == (np.uint8, 0, 255)
    expected = np.floor((channel - 3.0) / (channel.max() - 3.0) * 255)
    assert np.abs(scaled - expected).max() <= 1
    assert not minmax_bytes(np.full((3, 3), 5, dtype), (5.0, 5.0)).any()
