"""The table of objects: what each column holds, and that no id or plane is too much for it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from samcourier.images.geometry import Geometry
from samcourier.outputs.objects import measure, table, write_csv, write_parquet

HALF_A_MICROMETRE = Geometry.in_um("YX", (0.5, 0.5))


def two_cells() -> np.ndarray:
    mask = np.zeros((8, 10), np.uint32)
    mask[0:2, 3:6] = 4
    mask[4:6, 4:7] = 9
    return mask


def rows(objects: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = objects.to_pylist()
    return found


def measured(mask: np.ndarray, pixels: np.ndarray | None = None, **more: Any) -> pa.Table:
    settings = {"channels": [""], "origin": {}, "geometry": HALF_A_MICROMETRE} | more
    pixels = mask if pixels is None else pixels
    return table("cell", "k" * 64, [measure(mask, pixels, **settings)])


def test_each_object_is_a_row_with_its_size_place_and_brightness() -> None:
    pixels = np.arange(80, dtype=np.uint16).reshape(8, 10)
    upper, lower = rows(measured(two_cells(), pixels, origin={"T": 2}))
    expected = {
        "image": "cell", "t": 2, "z": None, "id": 4, "area_px": 6, "area_um2": 1.5,
        "centroid_y_px": 0.5, "centroid_x_px": 4.0,
        "centroid_y_um": 0.25, "centroid_x_um": 2.0,
        "bbox_y_first_px": 0, "bbox_y_last_px": 1, "bbox_x_first_px": 3, "bbox_x_last_px": 5,
        "touches_border": True, "intensity_mean": 9.0, "intensity_max": 15.0,
        "intensity_min": 3.0, "extent": 1.0,
    }  # fmt: skip
    assert {name: upper[name] for name in expected} == expected
    assert list(upper)[:15] == list(expected)[:15]
    assert (lower["id"], lower["touches_border"], lower["intensity_max"]) == (9, False, 56.0)


def test_every_channel_is_measured() -> None:
    pixels = np.stack([np.full((8, 10), 3.5, np.float32), two_cells().astype(np.float32)])
    first, second = rows(measured(two_cells(), pixels, channels=["DAPI", "c1"]))
    assert (first["intensity_mean_DAPI"], first["intensity_max_c1"]) == (3.5, 4.0)
    assert (second["intensity_mean_DAPI"], second["intensity_max_c1"]) == (3.5, 9.0)


def test_a_volume_has_voxels_and_a_third_coordinate() -> None:
    mask = np.zeros((4, 8, 10), np.uint32)
    mask[1:3] = two_cells()
    (first, second) = rows(
        measured(
            mask,
            np.ones((2, 4, 8, 10)),
            channels=["c0", "c1"],
            geometry=Geometry.in_um("ZYX", (2.0, 0.5, 0.5)),
        )
    )
    assert (first["volume_px"], first["volume_um3"]) == (12, 6.0)
    assert (second["centroid_z_px"], second["bbox_z_last_px"]) == (1.5, 2)
    assert not second["touches_border"]
    assert "area_px" not in first


def test_without_a_pixel_size_the_area_has_no_unit() -> None:
    (first, _) = rows(measured(two_cells(), geometry=Geometry.unknown("YX")))
    assert (first["area_px"], first["area_um2"]) == (6, None)


@pytest.mark.parametrize("largest", [70_001, 2**31, 2**32 - 1])
def test_ids_of_any_size_stay(largest: int) -> None:
    mask = two_cells()
    mask[mask == 9] = largest
    assert measured(mask)["id"].to_pylist() == [4, largest]


def test_a_mask_without_background_and_one_without_objects(tmp_path: Path) -> None:
    assert measured(np.full((3, 3), 2**32 - 1, np.uint32))["area_px"].to_pylist() == [9]
    empty = measured(np.zeros((3, 4), np.uint32))
    assert empty.num_rows == 0
    assert empty.schema == measured(two_cells()).schema
    write_csv(tmp_path / "empty.csv", empty)
    with (tmp_path / "empty.csv").open() as stream:
        assert list(csv.reader(stream)) == [empty.column_names]


def test_more_objects_than_16_bits_hold() -> None:
    mask = np.arange(1, 66_001, dtype=np.uint32).reshape(250, 264)
    found = measured(mask)
    assert found["id"].to_pylist() == list(range(1, 66_001))
    assert set(found["area_px"].to_pylist()) == {1}


def test_parquet_and_csv_hold_the_same(tmp_path: Path) -> None:
    planes = [
        measure(two_cells(), two_cells(), [""], {"Z": depth}, HALF_A_MICROMETRE)
        for depth in range(3)
    ]
    objects = table("cell, odd", "k" * 64, planes)
    write_parquet(tmp_path / "cell.parquet", objects)
    write_csv(tmp_path / "cell.csv", objects)
    read = pyarrow.parquet.read_table(tmp_path / "cell.parquet")
    assert read.equals(objects)
    assert read.schema.metadata[b"samcourier_key"] == b"k" * 64
    with (tmp_path / "cell.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["z"] for line in lines] == ["0", "0", "1", "1", "2", "2"]
    assert lines[0]["image"] == "cell, odd"
    assert (lines[0]["t"], float(lines[0]["area_um2"])) == ("", 1.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_means_have_full_precision(dtype: type) -> None:
    mask = np.ones((300, 300), np.uint32)
    pixels = np.full((300, 300), 2049.0, dtype)
    pixels[::2] = 1.0
    expected = float(np.float64(pixels).mean())
    assert measure(mask, pixels, [""], {}, HALF_A_MICROMETRE)["intensity_mean"].tolist() == [
        expected
    ]
