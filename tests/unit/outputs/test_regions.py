"""Shapes and intensities of objects, compared with scikit-image's regionprops."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops_table
from skimage.segmentation import expand_labels

from samcourier.images.geometry import Geometry
from samcourier.outputs.objects import measure
from samcourier.settings.run_settings import ObjectSettings

COLUMN_OF = {
    "area": "area_px", "perimeter": "perimeter_px", "eccentricity": "eccentricity",
    "equivalent_diameter_area": "equivalent_diameter_px", "axis_major_length": "major_axis_px",
    "axis_minor_length": "minor_axis_px", "extent": "extent", "orientation": "orientation_rad",
    "intensity_mean": "intensity_mean", "intensity_min": "intensity_min",
    "intensity_max": "intensity_max", "intensity_std": "intensity_std",
}  # fmt: skip
OF_PLANES = {"perimeter", "eccentricity", "orientation"}


def blobs(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    found: np.ndarray = label(ndimage.gaussian_filter(noise, sigma) > 0)
    return found.astype(np.uint32)


def tiles(side: int, step: int) -> np.ndarray:
    """Return squares that touch each other."""
    across = np.arange(side) // step
    return (np.add.outer(across * (side // step), across) + 1).astype(np.uint32)


MASKS = {
    "blobs": blobs((90, 120), 2.0, 1),
    "large": blobs((200, 180), 6.0, 2),
    "ragged": blobs((60, 70), 0.7, 3),
    "touching": tiles(96, 12),
    "single pixels": np.arange(1, 50, dtype=np.uint32).reshape(7, 7),
    "volume": blobs((10, 40, 50), 1.5, 4),
}


def pixels_of(mask: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(5)
    return (50_000 + random.integers(0, 9, mask.shape)).astype(np.uint16)


def angle_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distance of two angles of lines, which are the same after half a turn."""
    apart = np.abs(a - b) % math.pi
    return np.minimum(apart, math.pi - apart)


@pytest.mark.parametrize("name", list(MASKS))
def test_columns_equal_those_of_regionprops(name: str) -> None:
    mask = MASKS[name]
    letters = "ZYX"[-mask.ndim :]
    pixels = pixels_of(mask)
    found = measure(mask, pixels, [""], {}, Geometry.unknown(letters))
    properties = [each for each in COLUMN_OF if mask.ndim == 2 or each not in OF_PLANES]
    expected = regionprops_table(mask.astype(np.int64), pixels, properties=properties)
    for each in properties:
        column = COLUMN_OF[each] if (each, mask.ndim) != ("area", 3) else "volume_px"
        if each == "orientation":
            assert angle_apart(found[column], expected[each]).max() < 1e-9
        else:
            np.testing.assert_allclose(found[column], expected[each], rtol=1e-9, atol=1e-7)
    for unknown in ("perimeter_um", "major_axis_um", "equivalent_diameter_um"):
        assert set(found.get(unknown, [None])) == {None}


@pytest.mark.parametrize("sizes", [(0.5, 0.5), (0.5, 0.2), (2.0, 0.5, 0.5), (0.5, 0.5, 0.5)])
def test_lengths_in_micrometres_follow_the_size_along_each_axis(sizes: tuple[float, ...]) -> None:
    mask = MASKS["blobs"] if len(sizes) == 2 else MASKS["volume"]
    letters = "ZYX"[-mask.ndim :]
    found = measure(mask, mask, [""], {}, Geometry.in_um(letters, sizes))
    is_square = len(set(sizes)) == 1
    properties = ["axis_major_length", "axis_minor_length", "equivalent_diameter_area"]
    if mask.ndim == 2:
        properties += ["eccentricity"] + ["perimeter"] * is_square
    expected = regionprops_table(mask.astype(np.int64), properties=properties, spacing=sizes)
    columns = ["major_axis_um", "minor_axis_um", "equivalent_diameter_um"]
    for column, each in zip(columns, properties, strict=False):
        np.testing.assert_allclose(found[column], expected[each], rtol=1e-9, atol=1e-7)
    if mask.ndim == 2:
        np.testing.assert_allclose(found["eccentricity"], expected["eccentricity"], atol=1e-7)
    if mask.ndim == 2 and is_square:
        np.testing.assert_allclose(found["perimeter_um"], expected["perimeter"], rtol=1e-9)
    undefined = [] if is_square else ["major_axis_px", "minor_axis_px", "equivalent_diameter_px"]
    undefined += ["perimeter_px", "perimeter_um", "orientation_rad"] * (
        mask.ndim == 2 and not is_square
    )
    for column in undefined:
        assert set(found[column]) == {None}, column


def test_a_volume_has_no_columns_of_planes() -> None:
    mask = MASKS["volume"]
    found = measure(mask, mask, [""], {}, Geometry.unknown("ZYX"))
    assert found.keys().isdisjoint({"perimeter_px", "eccentricity", "orientation_rad"})


@pytest.mark.parametrize("name", ["blobs", "volume"])
def test_solidity_on_request_equals_that_of_regionprops_or_is_empty(name: str) -> None:
    mask = MASKS[name]
    letters = "ZYX"[-mask.ndim :]
    settings = ObjectSettings(solidity=True)
    found = measure(mask, mask, [""], {}, Geometry.unknown(letters), settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = regionprops_table(mask.astype(np.int64), properties=["solidity"])["solidity"]
    defined = np.isfinite(expected) & (expected <= 1)
    np.testing.assert_allclose(found["solidity"][defined], expected[defined])
    assert np.isnan(found["solidity"][~defined]).all()


def test_a_ring_has_the_ids_of_the_objects_and_none_of_their_pixels() -> None:
    mask = MASKS["blobs"]
    pixels = pixels_of(mask).astype(np.float64)
    geometry = Geometry.in_um("YX", (0.5, 0.5))
    found = measure(mask, pixels, [""], {}, geometry, ObjectSettings(expand_um=1.5))
    ring = np.where(mask > 0, 0, expand_labels(mask, 3))
    for at, object_id in enumerate(found["id"]):
        own = pixels[ring == object_id]
        assert found["ring_area_px"][at] == own.size
        if own.size:
            assert found["ring_intensity_mean"][at] == pytest.approx(own.mean())
        else:
            assert np.isnan(found["ring_intensity_mean"][at])
    with pytest.raises(ValueError, match="needs the pixel size"):
        measure(mask, pixels, [""], {}, Geometry.unknown("YX"), ObjectSettings(expand_um=1.5))
