"""Masks in one file: what readers find in them, and that every damage is noticed."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models import v05
from zarr.storage import ZipStore

from samcourier.masks.integrity import OmeZarrVersion, is_complete, read_provenance, stat_mask
from samcourier.masks.omezarr import opened_mask, read_mask, write_mask
from samcourier.results.layout import find_mask, mask_path

VERSIONS: tuple[OmeZarrVersion, ...] = ("0.4", "0.5")
NAME = "cells.ome.zarr.zip"


def cells() -> np.ndarray:
    mask = np.zeros((1100, 300), np.uint32)
    mask[3:90, 5:70] = 70_001
    mask[100:, 40:200] = 2**32 - 1
    return mask


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> OmeZarrVersion:
    return "0.4" if request.param == "0.4" else "0.5"


@pytest.fixture
def zipped(tmp_path: Path, version: OmeZarrVersion) -> Path:
    write_mask(tmp_path / NAME, cells(), "YX", provenance={"key": "k"}, ome_zarr=version)
    return tmp_path / NAME


def test_a_zipped_mask_is_one_file_with_the_same_labels(zipped: Path) -> None:
    assert os.listdir(zipped.parent) == [NAME]
    assert stat_mask(zipped) == (1, zipped.stat().st_size)
    assert is_complete(zipped)
    assert (read_provenance(zipped) or {})["key"] == "k"
    np.testing.assert_array_equal(read_mask(zipped), cells())
    with opened_mask(zipped) as labels:
        assert labels[100, 40] == 2**32 - 1


def test_zarr_and_the_model_of_ome_zarr_open_it(zipped: Path, version: OmeZarrVersion) -> None:
    with ZipStore(zipped, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        if version == "0.5":
            v05.ImageLabel.from_zarr(group)
        assert [group[str(level)].shape for level in range(3)] == [
            (1100, 300), (550, 150), (275, 75),
        ]  # fmt: skip


def test_it_is_laid_out_as_rfc_9_asks(zipped: Path, version: OmeZarrVersion) -> None:
    with zipfile.ZipFile(zipped) as archive:
        entries, said = archive.infolist(), json.loads(archive.comment)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    names = [entry.filename for entry in entries]
    if version == "0.5":
        assert names[:5] == ["zarr.json", *(f"{level}/zarr.json" for level in range(4))]
        layout = {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}
        assert said["ome"] == layout
    else:
        assert names[:2] == [".zattrs", ".zgroup"]
        assert "ome" not in said


def test_the_same_mask_gives_the_same_bytes(zipped: Path, version: OmeZarrVersion) -> None:
    before = zipped.read_bytes()
    write_mask(zipped, cells(), "YX", provenance={"key": "k"}, ome_zarr=version)
    assert zipped.read_bytes() == before


def flip(content: bytes, where: float) -> bytes:
    at = int(where * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_every_damage_is_noticed(zipped: Path) -> None:
    content = zipped.read_bytes()
    damaged = [flip(content, where / 99) for where in range(100)]
    damaged += [content[:-1], content[: len(content) // 2], content + b" ", b""]
    damaged += [content[:-256] + b" " * 256, content.replace(b'"samcourier"', b'"somecourier')]
    for number, each in enumerate(damaged):
        zipped.write_bytes(each)
        assert not is_complete(zipped), f"damage {number} passed"


def test_what_is_no_zip_is_no_mask(tmp_path: Path) -> None:
    for content in (b"", b"text"):
        (tmp_path / NAME).write_bytes(content)
        assert read_provenance(tmp_path / NAME) is None
        assert not is_complete(tmp_path / NAME)
    assert stat_mask(tmp_path / "absent.ome.zarr.zip") is None


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ((), "cell.ome.zarr"),
        (("cell.ome.zarr",), "cell.ome.zarr"),
        (("cell.ome.zarr.zip",), "cell.ome.zarr.zip"),
        (("cell.ome.zarr", "cell.ome.zarr.zip"), "cell.ome.zarr"),
    ],
)
def test_a_mask_is_found_in_either_form(tmp_path: Path, there: tuple[str, ...], found: str) -> None:
    for name in there:
        (tmp_path / "masks").mkdir(exist_ok=True)
        path = tmp_path / "masks" / name
        path.write_text("") if name.endswith(".zip") else path.mkdir()
    assert find_mask(tmp_path, "cell").name == found
    assert mask_path(tmp_path, "cell", "zip").name == "cell.ome.zarr.zip"
