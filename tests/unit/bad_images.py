"""Files as they should not be, and odd ones that are sound: what is made, and what comes of it."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
import zarr

RNG = np.random.default_rng(11)
PLAIN: dict[str, Any] = {"photometric": "minisblack", "metadata": None}


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 200, shape or (20, 30)).astype(dtype)


@dataclass(frozen=True)
class Case:
    """``make`` writes the image to a path, whose name ends in ``suffix``.

    ``refusal`` is a pattern of what is said after the path; None means that it is read.
    """

    make: Callable[[Path], object]
    refusal: str | None = None
    suffix: str = ".tif"
    cells: dict[str, Any] = field(default_factory=dict)
    name: str | None = None


def tiff(array: np.ndarray, **options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, array, **{**PLAIN, **options})


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def tiff_bytes(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{**PLAIN, **options})
    return file.getvalue()


def changed_tags(data: bytes, **tags: int) -> bytes:
    """Return a little-endian TIFF with the values of these tags of its first page replaced."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for name, value in tags.items():
            tag = file.pages.first.tags[name]
            size = {3: "<H", 4: "<I"}[int(tag.dtype)]
            struct.pack_into(size, changed, tag.valueoffset, value)
    return bytes(changed)


def looped_pages() -> bytes:
    """Return a TIFF whose last page says that the first one is next."""
    data = bytearray(tiff_bytes(pixels()))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    return bytes(data)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """Return a small PNG that says it is large."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    """Return a small JPEG that says it is large."""
    data = bytearray(imagecodecs.jpeg_encode(pixels(20, 30, dtype="uint8")))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def pillow(mode: str, kind: str) -> bytes:
    file = io.BytesIO()
    channels = {"CMYK": (4,), "L": (), "RGB": (3,)}[mode]
    PIL.Image.fromarray(pixels(20, 30, *channels, dtype="uint8"), mode).save(file, kind)
    return file.getvalue()


def palette_png() -> bytes:
    image = PIL.Image.new("P", (30, 20), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def ome_zarr(
    shape: tuple[int, ...] = (20, 30), axes: str = "yx", **more: Any
) -> Callable[[Path], zarr.Group]:
    def make(path: Path) -> zarr.Group:
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", data=pixels(*shape), chunks=(16,) * len(shape))
        named = [{"name": axis, "type": "space"} for axis in axes]
        group.attrs["multiscales"] = [{"axes": named, "datasets": [{"path": "0"}], **more}]
        return group

    return make


def then(make: Callable[[Path], object], do: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(path: Path) -> None:
        make(path)
        do(path)

    return both


def attributes(text: str) -> Callable[[Path], object]:
    return then(ome_zarr(), lambda path: (path / ".zattrs").write_text(text))


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        # Such a name has 108 bytes at most, whatever folder it is in.
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def ome_xml(text: str) -> Callable[[Path], object]:
    return tiff(pixels(), description=text)


def lost_companion(path: Path) -> None:
    """Write an OME-TIFF of two files, and lose the second."""
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16"'
        ' SizeX="30" SizeY="20" SizeZ="2" SizeC="1" SizeT="1">'
        '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="{0}">urn:uuid:0</UUID>'
        '</TiffData><TiffData FirstZ="1" IFD="0" PlaneCount="1">'
        '<UUID FileName="lost.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
    )
    tiff(pixels(), description=text.format(path.name))(path)


NAN = pixels(dtype="float32")
NAN[3, 4:6] = np.nan
NAN[5, 6] = np.inf
ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w") as _archive:
    _archive.writestr("a.tif", b"II*\0")
WHOLE = tiff_bytes(pixels(64, 64))
LZW = tiff_bytes(pixels(64, 64), compression="lzw")
PNG = imagecodecs.png_encode(pixels(20, 30, dtype="uint8"))
JPEG = imagecodecs.jpeg_encode(pixels(20, 30, dtype="uint8"))

CASES: dict[str, Case] = {
    "missing": Case(lambda path: None, "no such file"),
    "zero bytes": Case(content(b""), "the file is empty"),
    "text named .tif": Case(content(b"x,y\n1,2\n"), r"begins with b'x,y"),
    "error page named .tif": Case(content(b"<!DOCTYPE html>"), r"begins with b'<!DOCTYP"),
    "Git LFS pointer": Case(content(b"version https://git-lfs"), r"begins with b'version "),
    "zip named .tif": Case(content(ZIPPED.getvalue()), r"begins with b'PK"),
    "gzip of a TIFF": Case(content(gzip.compress(WHOLE, mtime=0)), r"begins with b'\\x1f\\x8b"),
    "BMP": Case(content(pillow("L", "BMP")), "begins with b'BM", ".bmp"),
    "GIF": Case(content(pillow("L", "GIF")), "begins with b'GIF", ".gif"),
    "directory named .tif": Case(Path.mkdir, "is a directory"),
    "empty folder named .zarr": Case(Path.mkdir, "is a directory", ".zarr"),
    "link to itself": Case(lambda path: path.symlink_to(path.name), "cannot be opened"),
    "link to nothing": Case(lambda path: path.symlink_to("lost"), "no such file"),
    "pipe": Case(os.mkfifo, "is not a regular file"),
    "socket": Case(bind, "is not a regular file"),
    "device": Case(lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "TIFF cut in half": Case(content(WHOLE[: len(WHOLE) // 2]), "damaged TIFF"),
    "TIFF less a byte": Case(content(WHOLE[:-1]), "damaged TIFF"),
    "TIFF header alone": Case(content(b"II*\0"), "damaged TIFF"),
    "TIFF without pages": Case(content(b"II*\0" + bytes(500)), "TIFF"),
    "TIFF of noise": Case(content(b"MM\0*" + b"\x07" * 500), "TIFF"),
    "TIFF pages in a circle": Case(content(looped_pages()), "damaged TIFF .*circular"),
    "TIFF strip beyond the end": Case(
        content(changed_tags(WHOLE, StripOffsets=10**9)), "damaged TIFF"
    ),
    "TIFF that claims 10^13 pixels": Case(
        content(changed_tags(WHOLE, ImageWidth=65_000, ImageLength=65_000)), "damaged TIFF"
    ),
    "TIFF with 0 x N pixels": Case(content(changed_tags(WHOLE, ImageLength=0)), "holds no pixel"),
    "LZW stream damaged": Case(
        content(LZW[: len(LZW) // 2] + b"\xff" * 50 + LZW[len(LZW) // 2 + 50 :]), "damaged TIFF"
    ),
    "OME-XML cut": Case(
        ome_xml('<?xml version="1.0"?><OME xmlns="http://www.ope</OME>'), "damaged TIFF"
    ),
    "OME-TIFF without its other file": Case(
        lost_companion, r"lost\.ome\.tif: no such file", cells={"z": "all"}
    ),
    "5 axes without names": Case(
        tiff(pixels(2, 3, 4, 20, 30), metadata={}), "does not label dimension Q"
    ),
    "NaN and inf": Case(tiff(NAN), "3 of 600 values are NaN or infinite"),
    "NaN only": Case(tiff(np.full((20, 30), np.nan, "f4")), "600 of 600 values are NaN"),
    "complex": Case(tiff(pixels(dtype="complex64")), "pixels are complex64"),
    "CMYK TIFF": Case(content(pillow("CMYK", "TIFF")), "a CMYK TIFF"),
    "CMYK JPEG": Case(content(pillow("CMYK", "JPEG")), "a CMYK JPEG", ".jpg"),
    "half a PNG": Case(content(PNG[:200]), "damaged PNG", ".png"),
    "PNG with a wrong checksum": Case(
        content(PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:]), "damaged PNG", ".png"
    ),
    "PNG that claims 360 billion pixels": Case(
        content(png_bomb(600_000, 600_000)), "360.0 GB of pixels .* memory", ".png"
    ),
    "JPEG cut within its pixels": Case(
        content(JPEG[:-20]), "damaged JPEG .*end marker is missing", ".jpg"
    ),
    "half a JPEG": Case(content(JPEG[:200]), "damaged JPEG", ".jpg"),
    "JPEG that claims 4 billion pixels": Case(
        content(jpeg_bomb(65_500, 65_500)), "4.3 GB of pixels .* memory", ".jpg"
    ),
    "zarr attributes cut": Case(attributes('{"multisc'), "damaged Zarr", ".zarr"),
    "zarr attributes are a list": Case(attributes("[1]"), "damaged Zarr", ".zarr"),
    "zarr without multiscales": Case(attributes("{}"), "without multiscales", ".zarr"),
    "empty multiscales": Case(attributes('{"multiscales": []}'), "OME-Zarr", ".zarr"),
    "OME-Zarr 0.2, without axes": Case(
        attributes('{"multiscales": [{"datasets": [{"path": "0"}]}]}'), "damaged OME-Zarr", ".zarr"
    ),
    "OME-Zarr with an axis too many": Case(ome_zarr(axes="zyx"), "axes ZYX for the shape", ".zarr"),
    "OME-Zarr axis of another name": Case(
        ome_zarr((2, 20, 30), "wyx"), "does not label dimension \\?", ".zarr"
    ),
    "OME-Zarr without its array": Case(
        then(ome_zarr(), lambda path: shutil.rmtree(path / "0")), "damaged OME-Zarr", ".zarr"
    ),
    "OME-Zarr without .zarray": Case(
        then(ome_zarr(), lambda path: (path / "0/.zarray").unlink()), "damaged OME-Zarr", ".zarr"
    ),
    "OME-Zarr chunk damaged": Case(
        then(ome_zarr(), lambda path: (path / "0/0.0").write_bytes(b"no chunk")),
        "damaged OME-Zarr",
        ".zarr",
    ),
    "OME-Zarr chunk cut": Case(
        then(ome_zarr(), lambda path: os.truncate(path / "0/0.0", 40)), "damaged OME-Zarr", ".zarr"
    ),
    "OME-Zarr of an unknown codec": Case(
        then(
            ome_zarr(),
            lambda path: (path / "0/.zarray").write_text(
                '{"zarr_format": 2, "shape": [20, 30], "chunks": [16, 16], "dtype": "<u2",'
                ' "compressor": {"id": "lost"}, "fill_value": 0, "order": "C", "filters": null}'
            ),
        ),
        "damaged OME-Zarr",
        ".zarr",
    ),
    "OME-Zarr that claims 10^18 pixels": Case(
        then(
            ome_zarr(),
            lambda path: (path / "0/.zarray").write_text(
                '{"zarr_format": 2, "shape": [1000000000, 1000000000], "chunks": [16, 16],'
                ' "dtype": "<u2", "compressor": null, "fill_value": 0, "order": "C",'
                ' "filters": null}'
            ),
        ),
        "is too large, expected at most",
        ".zarr",
    ),
    "OME-Zarr of 0 x N pixels": Case(ome_zarr((0, 30)), "holds no pixel", ".zarr"),
    "OME-Zarr of text": Case(
        then(
            ome_zarr(),
            lambda path: zarr.open_group(path).create_array(
                "0", shape=(20, 30), dtype="S4", overwrite=True
            ),
        ),
        "pixels are .S4, expected integers",
        ".zarr",
    ),
    "plate given as an image": Case(
        attributes('{"plate": {"wells": []}}'), "an OME-Zarr plate, expected one of its", ".zarr"
    ),
    "well given as an image": Case(
        attributes('{"well": {"images": []}}'), "without multiscales", ".zarr"
    ),
    "CZI without its reader": Case(content(b"ZISRAWFILE" + bytes(100)), "CZI", ".czi"),
    "LIF without its reader": Case(content(b"\x70\0\0\0" + bytes(100)), "LIF", ".lif"),
    "ND2 without its reader": Case(content(b"\xda\xce\xbe\x0a" + bytes(100)), "ND2", ".nd2"),
    "scene that is not there": Case(tiff(pixels()), "no scene 3", cells={"scene": 3}),
    "channel that is not there": Case(tiff(pixels()), "no channel 2", cells={"channel": 2}),
    "time point that is not there": Case(tiff(pixels()), "t 5, expected", cells={"t": "5"}),
    "stack, z not chosen": Case(
        tiff(pixels(4, 20, 30), metadata={"axes": "ZYX"}), "has 4 Z; write into the column z"
    ),
    "axes for another image": Case(
        tiff(pixels()), "axes ZYX name 3 dimensions", cells={"axes": "ZYX"}
    ),
    "name of 256 bytes": Case(lambda path: None, "File name too long", name="x" * 252 + ".tif"),
    "name that is not UTF-8": Case(
        lambda path: Path(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.tif")).write_bytes(
            WHOLE
        ),
        "not plain UTF-8 .* rename",
        name=r"caf\xe9.tif",
    ),
    # Unusual but valid.
    "name of 255 bytes": Case(tiff(pixels()), name="x" * 251 + ".tif"),
    "bool": Case(tiff(pixels() > 100)),
    "big-endian": Case(tiff(pixels(), byteorder=">")),
    "12 bits, packed": Case(
        lambda path: tifffile.imwrite(
            path, pixels(20, 30), bitspersample=12, compression="none", **PLAIN
        )
    ),
    "constant": Case(tiff(np.full((20, 30), 7, "u2"))),
    "70 000 pixels wide": Case(tiff(pixels(2, 70_000, dtype="uint8"))),
    "one pixel": Case(tiff(pixels(1, 1))),
    "palette PNG": Case(content(palette_png()), suffix=".png"),
    "JPEG named .png": Case(content(JPEG), suffix=".png"),
    "TIFF named .dat": Case(tiff(pixels()), suffix=".dat"),
    "OME-Zarr without one chunk": Case(
        then(ome_zarr(), lambda path: (path / "0/0.0").unlink()), suffix=".zarr"
    ),
    "OME-XML with a size that is no number": Case(
        lambda path: (
            tifffile.imwrite(path, pixels(), ome=True, metadata={"axes": "YX", "PhysicalSizeX": 1}),
            path.write_bytes(path.read_bytes().replace(b'PhysicalSizeX="1"', b'PhysicalSizeX="?"')),
        )
    ),
}
