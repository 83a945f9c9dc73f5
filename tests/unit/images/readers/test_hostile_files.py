"""Files from anywhere: what they declare is checked before it is read, and costs one image."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from samcourier.errors import ImageUnfit
from samcourier.images.planes import open_planes

AXES = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]


def read(path: Path) -> np.ndarray:
    with open_planes(path) as planes:
        return planes.read().pixels


def ome_zarr(path: Path, array: dict[str, Any] | None = None, **attributes: Any) -> Path:
    """Write an image of 8 x 8 as OME-Zarr 0.4, then change what its metadata say."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    made = group.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="u2", compressors=None)
    made[...] = 1
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": AXES, "datasets": [dataset]}]
    for name, value in ((".zattrs", attributes), ("0/.zarray", array or {})):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | value))
    return path


def png(path: Path, height: int, width: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def tiff(path: Path, **tags: Any) -> Path:
    pixels = np.ones((16, 16), np.uint16)
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages.first.tags[name].overwrite(value)
    return path


def ome_tiff(path: Path, xml: str) -> Path:
    tifffile.imwrite(path, np.ones((8, 8), np.uint16), description=xml, metadata=None)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda path: png(path, 100_000, 100_000),
        lambda path: tiff(path, ImageWidth=2**20, ImageLength=2**20),
        lambda path: tiff(path, TileWidth=2**20, TileLength=2**20),
        lambda path: ome_zarr(path, {"shape": [2**20, 2**20]}),
        lambda path: ome_zarr(path, {"chunks": [2**20, 2**20]}),
    ],
    ids=["png", "tiff", "tiff-tile", "zarr", "zarr-chunk"],
)
def test_a_file_that_needs_too_much_memory_is_refused_before_reading(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    with pytest.raises(ImageUnfit, match=r"says that it holds \d+\.\d GB of pixels"):
        read(make(tmp_path / "bomb"))


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "array",
    [
        {"filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"filters": [{"id": "shuffle", "elementsize": 2}, {"id": "pickle", "protocol": 5}]},
        {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]},
        {"dtype": "|O", "fill_value": 0},
    ],
)
def test_no_chunk_is_unpickled(tmp_path: Path, array: dict[str, Any]) -> None:
    path = ome_zarr(tmp_path / "image.zarr", array)
    trace = tmp_path / "trace"
    (path / "0" / "0.0").write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ImageUnfit, match="damaged OME-Zarr"):
        read(path)
    assert not trace.exists()
    pickle.loads((path / "0" / "0.0").read_bytes())
    assert trace.exists(), "the pickle would have been harmless"


@pytest.mark.parametrize("inner", ["../other.zarr/0", "/0", "0/../../other.zarr/0", "..", ""])
def test_no_array_outside_the_image_is_read(tmp_path: Path, inner: str) -> None:
    ome_zarr(tmp_path / "other.zarr")
    dataset = {"path": inner, "coordinateTransformations": []}
    multiscales = [{"axes": AXES, "datasets": [dataset]}]
    path = ome_zarr(tmp_path / "image.zarr", multiscales=multiscales)
    if inner == "/0":
        assert read(path).shape == (8, 8), "zarr takes it for the image's own"
        return
    with pytest.raises(ImageUnfit, match="damaged OME-Zarr"):
        read(path)


def ome_xml(attributes: str, parts: str = "") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels DimensionOrder="XYZCT" ID="Pixels:0" Type="uint16" SizeX="8"'
        f' SizeY="8" SizeZ="1" SizeC="1" SizeT="1" {attributes}>{parts}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("name", ["../secret.tif", "/data/secret.tif", "..\\secret.tif"])
def test_no_file_elsewhere_is_opened_for_ome_metadata(tmp_path: Path, name: str) -> None:
    part = f'<TiffData IFD="0"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>'
    with pytest.raises(ImageUnfit, match=r"its planes lie in .*secret.tif', expected files"):
        read(ome_tiff(tmp_path / "a.ome.tif", ome_xml("", part)))


@pytest.mark.parametrize(
    "xml",
    [
        ome_xml('PhysicalSizeX="wide"'),
        ome_xml('SizeX="8" SizeX="9"'),
        '<?xml version="1.0"?><OME' + "<" * 99 + "</OME>",
        '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
        + "".join(f'<!ENTITY b{n} "{f"&b{n - 1 or str()};" * 10}">' for n in range(1, 10))
        + "]><OME>&b9;</OME>",
    ],
    ids=["no number", "twice", "cut", "billion laughs"],
)
def test_odd_metadata_cost_one_image(tmp_path: Path, xml: str) -> None:
    try:
        read(ome_tiff(tmp_path / "a.ome.tif", xml))
    except ImageUnfit as error:
        assert "expected" in str(error)


@pytest.mark.parametrize(
    "attributes",
    [{"multiscales": []}, {"multiscales": [1]}, {"multiscales": {}}, {"ome": 1}, {"omero": 1}],
)
def test_odd_zarr_metadata_cost_one_image(tmp_path: Path, attributes: dict[str, Any]) -> None:
    with pytest.raises(ImageUnfit, match=r"damaged|without multiscales|cannot be read"):
        read(ome_zarr(tmp_path / "image.zarr", **attributes))


def test_a_folder_within_itself_ends(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2)
    (tmp_path / "image.zarr" / "0").symlink_to(tmp_path / "image.zarr")
    with pytest.raises(ImageUnfit):
        read(tmp_path / "image.zarr")
