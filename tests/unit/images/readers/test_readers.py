"""Every built-in reader passes the suite of all readers, and those of others come after them.

Nothing at hand writes LIF or ND2; that their files are recognised is in test_formats.py.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from samcourier.errors import ImageUnfit
from samcourier.images.readers.open import find_reader, open_source
from samcourier.samples.discovery import find_images, is_sheet
from samcourier.testing import ReaderTests

from ...installed import Install


class TestTiff(ReaderTests):
    name, file_name, axes = "tiff", "image.tif", "ZYX"

    def write(self, path: Path, pixels: np.ndarray) -> None:
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
        tifffile.imwrite(path, pixels, ome=True, **options)


class TestTiffInTiles(TestTiff):
    def write(self, path: Path, pixels: np.ndarray) -> None:
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
        tifffile.imwrite(path, pixels, ome=True, tile=(32, 32), compression="zlib", **options)


class TestPng(ReaderTests):
    name, file_name, axes, shape = "png", "image.png", "YX", (40, 56)

    def write(self, path: Path, pixels: np.ndarray) -> None:
        path.write_bytes(imagecodecs.png_encode(pixels))


class TestPngOfColours(TestPng):
    axes, shape, dtype = "YXS", (40, 56, 3), "uint8"


class TestJpeg(ReaderTests):
    name, file_name, axes = "jpeg", "image.jpg", "YX"
    shape, dtype, tolerance = (40, 56), "uint8", 4

    def write(self, path: Path, pixels: np.ndarray) -> None:
        path.write_bytes(imagecodecs.jpeg_encode(pixels, level=95))


class TestOmeZarr(ReaderTests):
    name, file_name, axes = "ome-zarr", "image.ome.zarr", "ZYX"
    zarr_format = 2

    def write(self, path: Path, pixels: np.ndarray) -> None:
        group = zarr.open_group(path, mode="w", zarr_format=self.zarr_format)  # type: ignore[arg-type]
        group.create_array("0", data=pixels, chunks=(1, 32, 32))
        axes = [{"name": name, "type": "space"} for name in "zyx"]
        scale = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
        level = {"path": "0", "coordinateTransformations": [scale]}
        content: dict[str, Any] = {"multiscales": [{"axes": axes, "datasets": [level]}]}
        is_old = self.zarr_format == 2
        group.attrs.update(content if is_old else {"ome": {"version": "0.5", **content}})

    def damage(self, path: Path) -> None:
        chunk = max(
            (each for each in path.rglob("*") if each.is_file() and each.name[0].isdigit()),
            key=lambda each: each.stat().st_size,
        )
        chunk.write_bytes(b"no chunk")


class TestOmeZarrOfZarr3(TestOmeZarr):
    zarr_format = 3


@pytest.mark.skipif(importlib.util.find_spec("pylibCZIrw") is None, reason="needs pylibCZIrw")
class TestCzi(ReaderTests):
    name, file_name, axes, shape = "czi", "image.czi", "TCZYX", (1, 1, 3, 128, 128)

    def write(self, path: Path, pixels: np.ndarray) -> None:
        from pylibCZIrw import czi

        with czi.create_czi(str(path)) as document:
            for z, plane in enumerate(pixels[0, 0]):
                document.write(data=plane[..., np.newaxis], plane={"T": 0, "Z": z, "C": 0})


DOOR = """
from samcourier.images.readers.reader import Reader

RAW = Reader("raw", "RAW", "raw_source:open_raw", {how})
"""
SOURCE = """
from contextlib import contextmanager
import numpy as np
from samcourier.images.readers.raster import DecodedSource

@contextmanager
def open_raw(path, scene):
    yield DecodedSource(np.full((4, 5), 7, np.uint8), "YX")
"""
ENTRY = "[samcourier.readers]\nraw = raw_door:RAW\n"


@pytest.mark.parametrize(
    ("how", "file", "content"),
    [
        ("suffixes=('.raw',)", "a.RAW", b"any"),
        ("magic=(b'RAW!',), suffixes=('.raw',)", "a.raw", b"RAW!..."),
        ("magic=(b'RAW!',)", "a.dat", b"RAW!..."),
    ],
)
def test_an_installed_reader_opens_files_that_it_recognises(
    install: Install, tmp_path: Path, how: str, file: str, content: bytes
) -> None:
    install("courier-raw", ENTRY, raw_door=DOOR.format(how=how), raw_source=SOURCE)
    path = tmp_path / file
    path.write_bytes(content)
    with open_source(path) as source:
        assert source.read((slice(None), slice(None))).shape == (4, 5)


def test_first_bytes_decide_where_a_reader_names_some(install: Install, tmp_path: Path) -> None:
    how = "magic=(b'RAW!',), suffixes=('.raw',)"
    install("courier-raw", ENTRY, raw_door=DOOR.format(how=how), raw_source=SOURCE)
    path = tmp_path / "a.raw"
    path.write_bytes(b"not raw at all")
    refusal = r"begins with b'not raw ', expected a TIFF.* OME-Zarr or RAW"
    with pytest.raises(ImageUnfit, match=refusal), open_source(path):
        pass


def test_a_built_in_reader_comes_before_an_installed_one(install: Install, tmp_path: Path) -> None:
    how = "magic=(b'II*',), suffixes=('.tif',)"
    install("courier-raw", ENTRY, raw_door=DOOR.format(how=how), raw_source=SOURCE)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16))
    assert find_reader(path).name == "tiff"


def test_folders_are_searched_for_files_of_installed_readers(
    install: Install, tmp_path: Path
) -> None:
    how = "suffixes=('.raw',), folder_files=('RAW.txt',)"
    install("courier-raw", ENTRY, raw_door=DOOR.format(how=how), raw_source=SOURCE)
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    for name in ("a.raw", "b.txt", "folder/RAW.txt", "folder/c.raw"):
        (data / name).write_bytes(b"content")
    found = find_images([str(data)])
    assert [row.image for row in found.rows] == ["a.raw", "folder"]
    assert found.skipped == [data / "b.txt"]
    assert [row.image for row in find_images([str(data / "folder")]).rows] == ["folder"]
    assert [row.image for row in find_images([f"{data}/*"]).rows] == ["a.raw", "b.txt", "folder"]
    assert find_reader(data / "folder").name == "raw"
    assert not is_sheet("a.raw") and is_sheet("b.txt")


@pytest.mark.parametrize(
    ("entry", "door", "problem"),
    [
        (ENTRY, "import no_such_library", "reader 'raw' of courier-raw 1.0 cannot be loaded"),
        (ENTRY, "RAW = 7", "expected Reader with the name 'raw'"),
        (
            "[samcourier.readers]\ntiff = raw_door:RAW\n",
            "RAW = 7",
            "reader 'tiff' is offered by courier-raw 1.0 and by samcourier 0.1.0",
        ),
    ],
)
def test_a_reader_that_cannot_be_used_is_one_warning_and_in_the_refusal_and_breaks_no_other(
    install: Install,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    entry: str,
    door: str,
    problem: str,
) -> None:
    install("courier-raw", entry, raw_door=door)
    good = DOOR.format(how="magic=(b'GOOD',)").replace('"raw"', '"good"')
    install(
        "courier-good",
        "[samcourier.readers]\ngood = good_door:RAW\n",
        good_door=good,
        raw_source=SOURCE,
    )
    path = tmp_path / "a.dat"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            path.write_bytes(b"GOOD image")
            with open_source(path) as source:
                assert source.shape == (4, 5)
        path.write_bytes(b"something")
        with pytest.raises(ImageUnfit) as caught, open_source(path):
            pass
    (record,) = caplog.records
    assert problem in record.getMessage() and problem in str(caught.value)


def test_a_reader_without_its_libraries_affects_only_its_own_images(
    install: Install, tmp_path: Path
) -> None:
    door = DOOR.format(how="suffixes=('.raw',)")
    install("courier-raw", ENTRY, raw_door=door, raw_source="import no_such_library")
    path = tmp_path / "a.raw"
    path.write_bytes(b"content")
    refusal = r"a\.raw: the reader of RAW files cannot be imported \(No module named"
    with pytest.raises(ImageUnfit, match=refusal), open_source(path):
        pass
