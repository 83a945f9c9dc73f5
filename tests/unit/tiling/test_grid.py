"""Large planes and their tiles: where they lie, what is refused, how masks are stitched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samcourier.errors import ImageUnfit
from samcourier.results.service_description import CallLimits, ServiceDescription
from samcourier.settings.run_settings import TileSettings
from samcourier.tiling.grid import ServiceLimits, Tiling, plan_tiles
from samcourier.tiling.stitching import StitchedMask, Stitching, stitch

PATH = Path("slide.tif")
STATISTICS = ("intensity_range",)
SETTINGS = TileSettings(edge_px=100, halo_px=20, above_px=10_000)

sizes = st.integers(1, 130)
tilings = st.builds(Tiling, st.tuples(sizes, sizes), st.integers(12, 60), st.integers(0, 25))


@given(tilings)
def test_cores_cover_the_plane_and_each_lies_in_its_tile(tiling: Tiling) -> None:
    covered = np.zeros(tiling.shape_px, int)
    for number, tile in enumerate(tiling):
        assert tile.number == number
        covered[tile.core] += 1
        sent = np.zeros(tiling.shape_px, int)[tile.sent]
        assert all(a <= b for a, b in zip(sent.shape, tiling.largest_sent_px, strict=True))
        sent[tile.within(tile.core)] += 1
        assert sent.sum() == np.zeros(tiling.shape_px)[tile.core].size
        halo = [tile.core[0].start - tile.sent[0].start, tile.sent[1].stop - tile.core[1].stop]
        assert max(halo) <= tiling.halo_px
    assert (covered == 1).all()


def components(plane: np.ndarray) -> np.ndarray:
    """Return each connected piece as an object, uint32: what a perfect service would say."""
    return np.asarray(ndimage.label(plane)[0], np.uint32)


def tile_masks(plane: np.ndarray, tiling: Tiling) -> list[np.ndarray]:
    return [components(plane[tile.sent]) for tile in tiling]


def stitched(masks: list[np.ndarray], tiling: Tiling) -> tuple[np.ndarray, Stitching]:
    stitching = stitch(tiling, masks.__getitem__)
    return StitchedMask((), [stitching], lambda _, tile: masks[tile])[...], stitching


def assert_same_objects(found: np.ndarray, expected: np.ndarray) -> None:
    """Hold two masks to be the same up to the numbers of their objects."""
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    for ids in pairs:
        assert len(np.unique(ids)) == len(ids), "an object was split or two became one"


def discs(rng: np.random.Generator, shape: tuple[int, int], radius_px: int) -> np.ndarray:
    """Return discs of up to ``radius_px`` that do not touch, as booleans."""
    plane = np.zeros(shape, bool)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for _ in range(60):
        at_y, at_x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        squares = (y - at_y) ** 2 + (x - at_x) ** 2
        if not plane[squares <= (radius_px + 2) ** 2].any():
            plane |= squares <= rng.integers(1, radius_px + 1) ** 2
    return plane


@settings(deadline=None)
@given(tilings, st.integers(0, 999), st.integers(1, 6))
def test_separate_cells_equal_those_of_the_untiled_plane(
    tiling: Tiling, seed: int, radius_px: int
) -> None:
    plane = discs(np.random.default_rng(seed), tiling.shape_px, radius_px)
    tiling = Tiling(tiling.shape_px, tiling.edge_px, max(tiling.halo_px, 2 * radius_px + 1))
    mask, stitching = stitched(tile_masks(plane, tiling), tiling)
    assert_same_objects(mask, components(plane))
    assert stitching.object_count == components(plane).max() == len(np.unique(mask[mask > 0]))
    assert stitching.cut_count == 0


@settings(deadline=None, max_examples=25)
@given(tilings, st.integers(0, 999))
def test_ids_count_from_1_and_blocks_are_those_of_the_whole_mask(tiling: Tiling, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = tile_masks(rng.random(tiling.shape_px) < 0.3, tiling)
    mask, stitching = stitched(masks, tiling)
    assert set(np.unique(mask)) - {0} == set(range(1, stitching.object_count + 1))
    source = StitchedMask((), [stitching], lambda _, tile: masks[tile])
    top, left = (int(rng.integers(0, size)) for size in tiling.shape_px)
    block = slice(top, tiling.shape_px[0]), slice(left, left + 1)
    np.testing.assert_array_equal(source[block], mask[block])


@pytest.mark.parametrize(
    ("box", "tile_count"),
    [
        ((slice(30, 40), slice(95, 105)), 2),
        ((slice(95, 105), slice(30, 40)), 2),
        ((slice(95, 105), slice(95, 105)), 4),
        ((slice(99, 101), slice(99, 101)), 4),
        ((slice(0, 200), slice(98, 102)), 4),
        ((slice(90, 110), slice(0, 200)), 4),
        ((slice(0, 200), slice(0, 200)), 4),
    ],
    ids=["left-right", "top-bottom", "corner", "2 px", "a bar", "a wide bar", "all"],
)
def test_a_cell_across_tiles_is_one(box: tuple[slice, slice], tile_count: int) -> None:
    plane = np.zeros((200, 200), bool)
    plane[box] = True
    tiling = Tiling((200, 200), 100, 20)
    mask, stitching = stitched(tile_masks(plane, tiling), tiling)
    np.testing.assert_array_equal(mask, plane)
    assert sum(bool(mask[tile.core].any()) for tile in tiling) == tile_count
    is_large = max(np.ptp(np.argwhere(plane), axis=0)) > 20
    assert stitching.cut_count == int(is_large)


def test_two_cells_that_meet_diagonally_at_a_corner_stay_two() -> None:
    plane = np.zeros((200, 200), bool)
    plane[90:100, 90:100] = plane[100:110, 100:110] = True
    mask, _ = stitched(tile_masks(plane, Tiling((200, 200), 100, 20)), Tiling((200, 200), 100, 20))
    assert_same_objects(mask, components(plane))


def test_differences_between_tiles_never_join_two_cells_of_one_tile() -> None:
    tiling = Tiling((40, 80), 40, 20)
    left, right = np.zeros((40, 60), np.uint32), np.zeros((40, 60), np.uint32)
    left[5:15, 25:55], left[15:25, 25:55] = 1, 2
    right[5:25, 5:35] = 7
    mask, stitching = stitched([left, right], tiling)
    assert stitching.object_count == 2
    assert [mask[10, 30], mask[20, 30], mask[10, 50]] == [1, 2, 1]


def test_a_cell_that_one_tile_alone_sees_is_there_once() -> None:
    tiling = Tiling((40, 80), 40, 20)
    left, right = np.zeros((40, 60), np.uint32), np.zeros((40, 60), np.uint32)
    left[5:15, 35:45] = 3
    mask, _ = stitched([left, right], tiling)
    assert np.unique(mask).tolist() == [0, 1]


def test_each_tile_is_loaded_once() -> None:
    tiling = Tiling((130, 90), 30, 10)
    masks = tile_masks(discs(np.random.default_rng(4), (130, 90), 6), tiling)
    loaded: list[int] = []

    def load(number: int) -> np.ndarray:
        loaded.append(number)
        return masks[number]

    stitch(tiling, load)
    assert loaded == list(range(len(tiling)))


def test_planes_of_a_stack_have_ids_of_their_own() -> None:
    tiling = Tiling((30, 50), 30, 5)
    planes = discs(np.random.default_rng(3), (30, 50), 3), np.zeros((30, 50), bool)
    masks = [tile_masks(plane, tiling) for plane in planes]
    stitchings = [stitch(tiling, each.__getitem__) for each in masks]
    source = StitchedMask((1, 2), stitchings, lambda plane, tile: masks[plane][tile])
    assert source.shape == source[...].shape == (1, 2, 30, 50)
    assert_same_objects(source[0:1, 0:1, 0:30, 0:50][0, 0], components(planes[0]))
    assert not source[0:1, 1:2, 3:9, 4:50].any()


LIMITS = ServiceLimits(20_000, 1 << 20, STATISTICS)


@pytest.mark.parametrize(
    ("axes", "shape", "limits", "tile_count"),
    [
        ("YX", (100, 100), LIMITS, None),
        ("YX", (100, 101), LIMITS, 2),
        ("CYX", (2, 100, 100), LIMITS, None),
        ("CYX", (3, 100, 101), ServiceLimits(36_000, None, STATISTICS), 2),
        ("YX", (201, 201), ServiceLimits(image_statistics=STATISTICS), 9),
        ("YX", (201, 201), ServiceLimits(), None),
        ("ZYX", (2, 100, 100), LIMITS, None),
        ("ZYX", (9, 150, 150), ServiceLimits(image_statistics=STATISTICS), None),
    ],
)
def test_large_planes_are_tiled(
    axes: str, shape: tuple[int, ...], limits: ServiceLimits, tile_count: int | None
) -> None:
    tiling = plan_tiles(PATH, axes, shape, 2, SETTINGS, limits)
    assert (tiling and len(tiling)) == tile_count


@pytest.mark.parametrize(
    ("axes", "shape", "limits", "said"),
    [
        (
            "ZYX",
            (3, 100, 100),
            LIMITS,
            "slide.tif: shape (3, 100, 100) (ZYX) as one volume has 30000 values, and the service"
            " takes at most 20000; choose fewer depths in the column z, or plane by plane (all)",
        ),
        (
            "YX",
            (300, 300),
            ServiceLimits(20_000),
            "slide.tif: shape (300, 300) (YX) has 90000 values, and the service takes at most"
            " 20000; it cannot go as tiles either, since the service takes no image_statistics",
        ),
        (
            "YX",
            (300, 300),
            ServiceLimits(10_000, None, STATISTICS),
            "a tile of (140, 140) has 19600 values, and the service takes at most 10000; lower"
            " tiles.edge_px",
        ),
        (
            "CYX",
            (2, 300, 300),
            ServiceLimits(None, 50_000, STATISTICS),
            "a tile of (2, 140, 140) has 78400 bytes, and the service takes at most 50000",
        ),
    ],
)
def test_an_image_that_the_service_cannot_take_is_refused_with_a_reason(
    axes: str, shape: tuple[int, ...], limits: ServiceLimits, said: str
) -> None:
    with pytest.raises(ImageUnfit) as refusal:
        plan_tiles(PATH, axes, shape, 2, SETTINGS, limits)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("description", "limits"),
    [
        (ServiceDescription(), ServiceLimits()),
        (ServiceDescription(limits=CallLimits(max_pixels=5)), ServiceLimits(5)),
        (
            ServiceDescription(limits=CallLimits(max_image_bytes=9), image_statistics=STATISTICS),
            ServiceLimits(None, 9, STATISTICS),
        ),
    ],
)
def test_limits_are_those_the_service_tells(
    description: ServiceDescription, limits: ServiceLimits
) -> None:
    assert ServiceLimits.of(description) == limits
