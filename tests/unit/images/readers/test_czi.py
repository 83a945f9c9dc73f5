"""CZI files that pylibCZIrw writes: tile scans, scenes, colours, and what the directory lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.errors import ImageUnfit, SceneUnchosen
from samcourier.images.planes import open_planes
from samcourier.images.readers.open import open_source
from samcourier.images.selection import Selection
from samcourier.samples.inspection import inspect_images
from samcourier.samples.sheet import ImageRow

czi = pytest.importorskip("pylibCZIrw.czi", reason="needs pylibCZIrw")

RNG = np.random.default_rng(3)
FIELD = RNG.integers(0, 60000, (150, 180)).astype(np.uint16)


def write(path: Path, tiles: list[dict[str, Any]], **metadata: Any) -> None:
    """Write ``tiles``: pixels (Y, X) or (Y, X, 3), location (x, y), scene and T, C, Z."""
    with czi.create_czi(str(path)) as document:
        for tile in tiles:
            pixels = tile["pixels"] if tile["pixels"].ndim == 3 else tile["pixels"][..., None]
            document.write(
                data=np.ascontiguousarray(pixels),
                plane={axis: tile.get(axis, 0) for axis in "TCZ"},
                location=tile.get("at", (0, 0)),
                scene=tile.get("scene", 0),
            )
        scales = {"scale_x": 6.5e-7, "scale_y": 3.25e-7, "scale_z": 2e-6}
        document.write_metadata("image", **{**scales, **metadata})


def read(path: Path, scene: Any = None) -> np.ndarray:
    with open_source(path, scene) as source:
        return source.read((slice(None),) * len(source.shape))


@pytest.mark.parametrize("origin", [(0, 0), (-40, 1000)])
def test_a_tile_scan_is_stitched_by_its_positions(tmp_path: Path, origin: tuple[int, int]) -> None:
    tiles = [
        {"pixels": FIELD[y : y + 80, x : x + 100], "at": (x + origin[0], y + origin[1])}
        for y in (70, 0)
        for x in (0, 80)
    ]
    write(tmp_path / "a.czi", tiles, channel_names={0: "DAPI"})
    assert np.array_equal(read(tmp_path / "a.czi")[0, 0, 0], FIELD)
    with open_source(tmp_path / "a.czi") as source:
        assert source.channel_names == ("DAPI",)
        sizes = [source.geometry.axis(axis).size_um for axis in "ZYX"]
        assert sizes == [2.0, 0.325, 0.65]
        part = source.read((0, 0, 0, slice(60, 100), slice(70, 120)))
    assert np.array_equal(part, FIELD[60:100, 70:120])


SCENES = [
    {"pixels": FIELD[:50, :60], "scene": 0},
    {"pixels": FIELD[:70, :40], "scene": 1, "at": (500, 300)},
    {"pixels": FIELD[:70, 40:80], "scene": 1, "at": (540, 300)},
]


def test_scenes_are_those_of_the_directory(tmp_path: Path) -> None:
    write(tmp_path / "a.czi", SCENES)
    assert np.array_equal(read(tmp_path / "a.czi", 0)[0, 0, 0], FIELD[:50, :60])
    assert np.array_equal(read(tmp_path / "a.czi", 1)[0, 0, 0], FIELD[:70, :80])
    with pytest.raises(SceneUnchosen, match="expected scene 0 to 1"):
        read(tmp_path / "a.czi")
    (inspection,) = inspect_images([ImageRow("a", tmp_path / "a.czi")])
    assert [row.image for row in inspection.rows] == ["a_s0", "a_s1"]


def test_a_part_of_the_scenes_is_counted_from_zero(tmp_path: Path) -> None:
    write(tmp_path / "a.czi", [{**SCENES[1], "scene": 5}, {**SCENES[0], "scene": 2}])
    assert read(tmp_path / "a.czi", 0).shape[-2:] == (50, 60)
    assert read(tmp_path / "a.czi", 1).shape[-2:] == (70, 40)
    with pytest.raises(ImageUnfit, match="no scene 2, expected scene 0 to 1"):
        read(tmp_path / "a.czi", 2)


def test_planes_are_in_the_order_of_their_coordinates(tmp_path: Path) -> None:
    tiles = [
        {"pixels": np.full((8, 9), 100 * t + 10 * c + z, np.uint16), "T": t, "C": c, "Z": z}
        for t in range(2)
        for c in range(2)
        for z in range(3)
    ]
    write(tmp_path / "a.czi", tiles[::-1])
    assert read(tmp_path / "a.czi")[..., 0, 0].tolist() == [
        [[100 * t + 10 * c + z for z in range(3)] for c in range(2)] for t in range(2)
    ]


def test_a_missing_plane_is_no_black_plane(tmp_path: Path) -> None:
    tiles = [{"pixels": FIELD[:8, :9], "C": c, "Z": z} for c, z in ((0, 0), (0, 1), (1, 0))]
    write(tmp_path / "a.czi", tiles)
    with pytest.raises(ImageUnfit, match=r"the plane .*'C': 1, 'Z': 1.* is missing"):
        read(tmp_path / "a.czi")


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    blue_green_red = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    write(tmp_path / "a.czi", [{"pixels": blue_green_red}])
    with open_planes(tmp_path / "a.czi", Selection()) as planes:
        assert planes.axes == "CYX"
        expected = np.moveaxis(blue_green_red[..., ::-1], -1, 0)
        assert np.array_equal(planes.read().pixels, expected)


def test_without_metadata_the_pixels_are_read(tmp_path: Path) -> None:
    with czi.create_czi(str(tmp_path / "a.czi")) as document:
        document.write(data=FIELD[:8, :9, None], plane={"T": 0, "Z": 0, "C": 0})
    with open_source(tmp_path / "a.czi") as source:
        assert (source.channel_names, source.geometry.axis("X").size_um) == ((), None)
        assert np.array_equal(source.read((0, 0, 0, slice(None), slice(None))), FIELD[:8, :9])


def test_channels_of_different_pixels_are_refused(tmp_path: Path) -> None:
    tiles = [{"pixels": FIELD[:8, :9]}, {"pixels": FIELD[:8, :9].astype(np.uint8), "C": 1}]
    write(tmp_path / "a.czi", tiles)
    with pytest.raises(ImageUnfit, match="pixels of Gray16, Gray8, expected one of Gray8, Gray16"):
        read(tmp_path / "a.czi")
