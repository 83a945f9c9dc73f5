"""The number of files that a run will make, against the files that a mask has."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.diagnostics.forecast import SAMPLE_SIZE, files_of_mask, forecast_files
from samcourier.masks.integrity import OmeZarrVersion
from samcourier.masks.omezarr import write_mask
from samcourier.samples.sheet import ImageRow


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (1, 1)),
        ("YX", (512, 640)),
        ("YX", (2100, 1030)),
        ("TZYX", (2, 3, 300, 280)),
        ("ZYX", (3, 1100, 1030)),
    ],
)
def test_a_mask_has_as_many_files_and_folders_as_predicted(
    tmp_path: Path, axes: str, shape: tuple[int, ...], version: OmeZarrVersion
) -> None:
    path = tmp_path / "cell.ome.zarr"
    write_mask(path, np.zeros(shape, np.uint32), axes, provenance={}, ome_zarr=version)
    found = sum(len(folders) + len(files) for _, folders, files in os.walk(tmp_path))
    assert files_of_mask(shape, version) == found


def rows(folder: Path, count: int, are_there: bool = True) -> list[ImageRow]:
    made = [ImageRow(f"cell{number}", folder / f"{number}.tif") for number in range(count)]
    for row in made if are_there else ():
        tifffile.imwrite(row.path, np.zeros((40, 50), np.uint16))
    return made


def test_a_run_says_how_many_files_it_makes_and_how_few_zip_would(tmp_path: Path) -> None:
    assert files_of_mask((40, 50), "0.4") == 8
    ahead = forecast_files(rows(tmp_path, 25), 3, "folder", "0.4", ["preview", "input_labels"])
    said = str(ahead)
    assert (ahead.mask_pixels, ahead.image_bytes, ahead.unopened) == (2000, 4000, ())
    assert said == (
        "25 images make about 262 files and folders, and about 200 in their inputs;"
        " with mask_container: zip about 87"
    )
    said = str(forecast_files(rows(tmp_path, 25), 3, "zip", "0.4", ["preview"]))
    assert said == "25 images make about 87 files and folders"


def test_images_that_are_not_there_yet_are_the_least_they_can_be(tmp_path: Path) -> None:
    ahead = forecast_files(rows(tmp_path, 2, are_there=False), 1, "folder", "0.5", [])
    assert (ahead.mask_pixels, ahead.sampled_count, len(ahead.unopened)) == (None, 2, 2)
    assert str(ahead) == f"2 images make at least {2 * 7 + 2 + 4} files and folders"


def test_few_of_many_images_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        "samcourier.diagnostics.forecast._read_size",
        lambda row: opened.append(row.image) or "not there",
    )
    forecast_files(rows(tmp_path, 10_000, are_there=False), 400, "folder", "0.4", [])
    assert len(opened) == SAMPLE_SIZE
    assert (opened[0], opened[-1]) == ("cell0", "cell9000")
