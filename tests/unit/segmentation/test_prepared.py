"""Row and file -> prepared image: what is read at once, and what the key and the form are of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from samcourier.images.geometry import SheetSize
from samcourier.images.selection import Selection, parse_pick
from samcourier.segmentation.prepared import FileVersion
from samcourier.tiling.grid import TileSettings

from .batch_settings import batch_settings
from .one_image import prepared_image, write_image

VOLUME = Selection(z=parse_pick("volume", volume=True))
MOVIE = Selection(z=parse_pick("all", volume=True))
TILES = TileSettings(edge_px=8, halo_px=2, above_px=100)


@pytest.mark.parametrize(
    ("selection", "tiles", "has_plane", "tile_count", "plane_count"),
    [
        (VOLUME, TileSettings(), True, None, 1),
        (MOVIE, TileSettings(), True, None, 3),
        (MOVIE, TILES, False, 4, 3),
    ],
)
async def test_a_plane_is_at_hand_unless_it_goes_as_tiles(
    tmp_path: Path,
    selection: Selection,
    tiles: TileSettings,
    has_plane: bool,
    tile_count: int | None,
    plane_count: int,
) -> None:
    path = write_image(tmp_path, (3, 10, 12), "ZYX")
    settings = batch_settings(tmp_path, tiles=tiles)
    async with prepared_image(path, settings, selection=selection) as prepared:
        assert (prepared.plane is not None) == has_plane
        assert (len(prepared.tiling) if prepared.tiling else None) == tile_count
        assert len(prepared.planes) == plane_count
        assert prepared.pixels_sha256 == prepared.planes.sha256()


@pytest.mark.parametrize(
    ("of_the_sheet_um", "selection", "spacing_um"),
    [
        (None, VOLUME, (2.0, 0.5, 0.5)),
        (0.25, VOLUME, (2.0, 0.25, 0.25)),
        (0.25, Selection(z=parse_pick("max", volume=True)), (0.25, 0.25)),
    ],
)
async def test_the_form_has_the_sizes_of_the_sheet_before_those_of_the_file(
    tmp_path: Path,
    of_the_sheet_um: SheetSize | None,
    selection: Selection,
    spacing_um: tuple[float, ...],
) -> None:
    path = write_image(tmp_path, (3, 10, 12), "ZYX")
    settings = batch_settings(tmp_path, ome_zarr="0.5")
    cells = {"selection": selection, "pixel_size_um": of_the_sheet_um}
    async with prepared_image(path, settings, **cells) as prepared:
        assert prepared.geometry.sizes_um(prepared.planes.mask_axes) == spacing_um
        sizes_um = {"pixel_size_um": spacing_um[-1]}
        if len(spacing_um) == 3:
            sizes_um["z_spacing_um"] = 2.0
        assert prepared.form == {"ome_zarr": "0.5", **sizes_um}
        assert prepared.provenance(7)["form"] == prepared.form
        assert prepared.provenance(7)["object_count"] == 7


@pytest.mark.parametrize(
    ("settings", "cells", "is_same_key"),
    [
        ({}, {}, True),
        ({"ome_zarr": "0.5", "mask_container": "zip", "retry_failed": True}, {}, True),
        ({}, {"pixel_size_um": 3.0}, True),
        ({"parameters": {"sigma": 2}}, {"parameters": {"sigma": 1}}, True),
        ({"parameters": {"sigma": 2}}, {}, False),
        ({}, {"foreground": "inside.png"}, False),
        ({"tiles": TILES}, {}, False),
    ],
)
async def test_the_key_changes_only_with_inputs_that_change_labels(
    tmp_path: Path, settings: dict[str, Any], cells: dict[str, Any], is_same_key: bool
) -> None:
    path = write_image(tmp_path)
    (tmp_path / "inside.png").write_bytes(imagecodecs.png_encode(np.ones((10, 12), np.uint8)))
    if "foreground" in cells:
        cells = cells | {"foreground": tmp_path / cells["foreground"]}
    plain = batch_settings(tmp_path, parameters={"sigma": 1})
    async with prepared_image(path, plain) as prepared:
        key = prepared.key
    other = batch_settings(tmp_path, **({"parameters": {"sigma": 1}} | settings))
    async with prepared_image(path, other, **cells) as prepared:
        assert (prepared.key == key) == is_same_key


def test_a_file_has_changed_once_it_is_written_replaced_or_deleted(tmp_path: Path) -> None:
    path = tmp_path / "cell.tif"
    absent = FileVersion.now(path)
    assert not absent.has_changed
    path.write_bytes(b"1")
    assert absent.has_changed
    written = FileVersion.now(path)
    assert not written.has_changed
    os.utime(path, (1, 1))
    assert written.has_changed
    touched = FileVersion.now(path)
    path.unlink()
    assert touched.has_changed


def test_a_file_beside_the_sheet_s_counts_as_a_change(tmp_path: Path) -> None:
    path, other = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    path.write_bytes(b"a")
    other.write_bytes(b"b")
    before, alone = FileVersion.now(path, (other,)), FileVersion.now(path)
    assert not before.has_changed
    other.write_bytes(b"longer")
    assert before.has_changed and not alone.has_changed
    other.unlink()
    assert before.has_changed
