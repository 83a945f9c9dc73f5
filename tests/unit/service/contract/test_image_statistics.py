"""Statistics of a whole image, streamed, and what a tile becomes with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import samcourier.images.planes
from samcourier.errors import ImageUnfit, RequestRefused
from samcourier.images.planes import open_planes
from samcourier.images.statistics import plane_statistics
from samcourier.tiling.grid import Tiling
from samcourier.tiling.stitching import StitchedMask, stitch
from samservice.contract.channels import intensity_range, to_gray, to_model_image
from samservice.contract.errors import WrongParameter
from samservice.contract.image_statistics import (
    BrightObjects,
    ImageStatistics,
    checked_statistics,
    streamed_intensity_range,
    streamed_robust_and_full_range,
)
from samservice.contract.normalization import robust_range
from samservice.engines.watershed import PARAMETERS, WatershedEngine

ENGINE = WatershedEngine()
WANTED = ENGINE.describe()["image_statistics"]
DEFAULTS = {name: schema["default"] for name, schema in PARAMETERS.items()}

DTYPES = ("u1", "i1", "<u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


@pytest.fixture(autouse=True)
def narrow_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samcourier.images.planes, "_BAND_PX", 20_000)
    monkeypatch.setattr(samcourier.images.planes, "_BAND_ROWS", 16)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_streamed_range_is_that_of_the_whole_to_the_last_bit(
    dtype: str, data: st.DataObject
) -> None:
    limits: dict[str, Any] = {}
    if dtype[-2] == "f":
        limits = {"allow_nan": False, "allow_infinity": False, "max_value": 1000, "min_value": -999}
    elements = hnp.from_dtype(np.dtype(dtype), **limits)
    pixels = data.draw(hnp.arrays(dtype, st.integers(1, 300), elements=elements))
    parts = np.array_split(pixels, data.draw(st.integers(1, 5)))
    found = streamed_intensity_range(lambda: parts, pixels.dtype, pixels.size)
    assert found == intensity_range(pixels)
    robust, full = streamed_robust_and_full_range(lambda: parts, pixels.dtype, pixels.size)
    assert robust == robust_range(pixels)
    assert full == (float(pixels.min()), float(pixels.max()))
    if len(np.unique(pixels)) > 1 and np.diff(np.percentile(pixels, (1, 99.8))) > 0:
        expected = np.percentile(pixels.astype(float), (1, 99.8))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_have_no_range(tmp_path: Path, value: float) -> None:
    pixels = np.ones((40, 50), np.float32)
    pixels[3, 4] = value
    tifffile.imwrite(tmp_path / "image.tif", pixels)
    with (
        open_planes(tmp_path / "image.tif") as planes,
        pytest.raises(ImageUnfit, match=r"image\.tif: 1 of \d+ values are NaN or infinite"),
    ):
        plane_statistics(planes, 0, WANTED, DEFAULTS)


MICROSAM_WANTED = ["robust_range", "full_range"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("axes", ["YX", "CYX"])
def test_the_ranges_of_a_sparse_plane_are_those_of_the_whole(
    tmp_path: Path, dtype: str, axes: str
) -> None:
    plane = np.random.default_rng(0).normal(40, 3, (420, 380))
    plane[100:110, 200:210] = 200
    pixels = np.stack([plane, plane[::-1]]) if axes == "CYX" else plane
    pixels = pixels.astype(dtype)
    tifffile.imwrite(tmp_path / "image.ome.tif", pixels, metadata={"axes": axes}, tile=(64, 64))
    with open_planes(tmp_path / "image.ome.tif") as planes:
        statistics = plane_statistics(planes, 0, MICROSAM_WANTED, {})
    channels = pixels if axes == "CYX" else pixels[np.newaxis]
    expected = ImageStatistics(
        (420, 380),
        (0, 0),
        robust_range=tuple(map(robust_range, channels)),
        full_range=tuple((float(each.min()), float(each.max())) for each in channels),
    )
    assert statistics == expected
    assert [high for _, high in statistics.robust_range] == [200] * len(channels)
    received = checked_statistics(statistics.to_wire(), MICROSAM_WANTED, pixels.shape, axes)
    assert received == expected


@pytest.mark.parametrize("name", MICROSAM_WANTED)
@pytest.mark.parametrize("value", [None, [], [[1]], [[2, 1]], [[0, 1], [0, 1]], [["0", 1]]])
def test_a_malformed_range_is_named(name: str, value: Any) -> None:
    wired = {"shape_px": [8, 8], "origin_px": [0, 0]}
    wired |= {"robust_range": [[0, 1]], "full_range": [[0, 1]]} | {name: value}
    with pytest.raises(WrongParameter, match=f"image_statistics: {name}"):
        checked_statistics(wired, MICROSAM_WANTED, (8, 8), "YX")


def cells(seed: int, shape: tuple[int, int] = (420, 380), blank: bool = True) -> np.ndarray:
    """Return noise with bright spots, uint16, some of which touch; a third may be blank."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    y, x = np.ogrid[-15:16, -15:16]
    for _ in range(90):
        at_y, at_x = (int(rng.integers(15, size - 16)) for size in shape)
        spot = np.exp(-(((y**2 + x**2) / rng.uniform(4, 9) ** 2) ** 2))
        image[at_y - 15 : at_y + 16, at_x - 15 : at_x + 16] += spot * rng.uniform(300, 3000)
    if blank:
        image[:, 130:260] = 0
    return (image + rng.normal(300, 20, shape)).clip(0, 65535).astype(np.uint16)


def statistics_of(path: Path, **parameters: Any) -> ImageStatistics:
    with open_planes(path) as planes:
        return plane_statistics(planes, 0, WANTED, DEFAULTS | parameters)


@pytest.fixture(params=["YX", "CYX"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, np.ndarray, str]]:
    pixels = cells(0)
    if request.param == "CYX":
        pixels = np.stack([pixels, cells(1) // 3])
    tifffile.imwrite(
        tmp_path / "image.ome.tif", pixels, metadata={"axes": request.param}, tile=(64, 64)
    )
    yield tmp_path / "image.ome.tif", pixels, request.param


@pytest.mark.parametrize(
    "parameters", [{}, {"sigma_px": 2.5}, {"background_px": 50}, {"diameter_px": 15.0}]
)
def test_a_whole_image_gives_the_same_labels_with_its_own_statistics(
    image: tuple[Path, np.ndarray, str], parameters: dict[str, Any]
) -> None:
    path, pixels, axes = image
    statistics = statistics_of(path, **parameters)
    sent = checked_statistics(statistics.to_wire(), WANTED, pixels.shape, axes)
    expected = ENGINE.segment(pixels, axes, parameters)
    assert expected.max() > 20
    np.testing.assert_array_equal(ENGINE.segment(pixels, axes, parameters, sent), expected)
    ranges = statistics.intensity_range
    for prepare in (to_gray, to_model_image):
        np.testing.assert_array_equal(prepare(pixels, axes, ranges), prepare(pixels, axes))


@pytest.mark.parametrize(("edge_px", "halo_px"), [(97, 80), (200, 100)])
def test_tiles_give_the_labels_of_the_whole_image_and_blank_ones_none(
    image: tuple[Path, np.ndarray, str], edge_px: int, halo_px: int
) -> None:
    path, pixels, axes = image
    statistics = statistics_of(path)
    tiling = Tiling((420, 380), edge_px, halo_px)
    masks = [
        ENGINE.segment(
            pixels[(..., *tile.sent)], axes, {}, replace(statistics, origin_px=tile.origin_px)
        )
        for tile in tiling
    ]
    stitching = stitch(tiling, masks.__getitem__)
    mask = StitchedMask((), [stitching], lambda _, tile: masks[tile])[...]
    whole = ENGINE.segment(pixels, axes, {})
    np.testing.assert_array_equal(mask > 0, whole > 0)
    pairs = np.unique(np.stack([mask.ravel(), whole.ravel()]), axis=1)
    assert pairs.shape[1] == whole.max() + 1 == mask.max() + 1
    assert not mask[:, 140:250].any()
    # Without them noise would be stretched until it looked like objects, at least for micro-sam.
    blank = pixels[..., 150:240]
    assert (
        to_model_image(blank, axes).mean()
        > 2 * to_model_image(blank, axes, statistics.intensity_range).mean()
    )


GRID = np.ones((1, 1), np.float32)


def wire(**changes: Any) -> dict[str, Any]:
    whole = ImageStatistics(
        (50, 60), (0, 0), ((1.0, 2.0),), bright_objects=BrightObjects(20.0, GRID, GRID * 0.01, 0.3)
    )
    return whole.to_wire() | changes


def bright(**changes: Any) -> dict[str, Any]:
    return wire(bright_objects=wire()["bright_objects"] | changes)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "needs the keys ['bright_objects', 'intensity_range', 'origin_px', 'shape_px']"),
        ({}, "needs the keys"),
        (wire(gamma=1), "needs the keys"),
        (wire(shape_px=[50]), "shape_px [50], expected [Y, X] in pixels"),
        (wire(shape_px=[50, 1e3]), "shape_px [50, 1000.0], expected [Y, X]"),
        (wire(origin_px=[-1, 0]), "origin_px [-1, 0], expected [Y, X]"),
        (
            wire(origin_px=[20, 20]),
            "(40, 40) px at (20, 20) lies outside of its image of (50, 60)",
        ),
        (wire(intensity_range=[[0, 1]] * 2), "expected [low, high] for each of 1 channels"),
        (wire(intensity_range=[[0]]), "expected [low, high] for each of 1 channels"),
        (wire(intensity_range=None), "expected [low, high] for each of 1 channels"),
        (wire(intensity_range=[[0, float("nan")]]), "intensity_range nan, expected a finite"),
        (wire(intensity_range=[[0, True]]), "intensity_range True, expected a finite number"),
        (wire(intensity_range=[[2, 1]]), "expected low <= high"),
        (bright(background=[[1.0]]), "bright_objects.background, expected finite float32 (rows,"),
        (bright(background={"wire": 1}), "bright_objects.background: packed array needs the keys"),
        (bright(noise=np.ones((2, 0), np.float32)), "bright_objects.noise, expected finite"),
        (bright(noise=np.full((1, 1), np.inf, np.float32)), "bright_objects.noise, expected fin"),
        (bright(noise=np.ones((1, 2), np.float32)), "noise (1, 2), expected the background's (1,"),
        (bright(otsu="0"), "bright_objects.otsu '0', expected a finite number"),
        (bright(diameter_px=0), "bright_objects.diameter_px 0.0, expected more than 0 and at most"),
        (bright(diameter_px=1e9), "bright_objects.diameter_px 1000000000.0, expected more than 0"),
        (bright(floor=1), "expected diameter_px, background, noise and otsu"),
        (wire(bright_objects={"otsu": 1}), "expected diameter_px, background, noise and otsu"),
        (wire(bright_objects=7), "bright_objects 7, expected diameter_px, background, noise and"),
    ],
)
def test_wrong_statistics_are_refused_in_words(value: Any, said: str) -> None:
    with pytest.raises(WrongParameter) as refusal:
        checked_statistics(value, WANTED, (40, 40), "YX")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("wanted", "axes", "said"),
    [((), "YX", "this engine's images take none"), (WANTED, "ZYX", "volumes take none")],
)
def test_statistics_nobody_takes_are_refused(wanted: Any, axes: str, said: str) -> None:
    with pytest.raises(WrongParameter, match=said):
        checked_statistics(wire(), wanted, (40, 40, 40)[: len(axes)], axes)


def test_a_background_of_other_squares_is_refused() -> None:
    sent = checked_statistics(wire(shape_px=[500, 600]), WANTED, (40, 40), "YX")
    with pytest.raises(WrongParameter, match=r"background \(1, 1\), expected \(6, 8\)"):
        ENGINE.segment(cells(0)[:40, :40], "YX", {}, sent)


@pytest.mark.parametrize("wanted", [WANTED, WANTED[:1], WANTED[1:]])
def test_a_service_is_sent_what_it_wants_and_no_more(tmp_path: Path, wanted: list[str]) -> None:
    tifffile.imwrite(tmp_path / "image.tif", cells(0))
    with open_planes(tmp_path / "image.tif") as planes:
        whole = plane_statistics(planes, 0, WANTED, DEFAULTS).to_wire()
        sent = plane_statistics(planes, 0, wanted, DEFAULTS).to_wire()
    assert sent == {name: whole[name] for name in ("shape_px", "origin_px", *wanted)}
    checked_statistics(sent, wanted, (420, 380), "YX")


def test_a_client_that_cannot_compute_what_the_service_wants_says_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", cells(0))
    with (
        open_planes(tmp_path / "image.tif") as planes,
        pytest.raises(RequestRefused, match="entropy, but this client only computes"),
    ):
        plane_statistics(planes, 0, ["intensity_range", "entropy"], {})
