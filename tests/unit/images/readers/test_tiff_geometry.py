"""Pixel sizes of TIFFs, read where each kind of writer states them; values worked out by hand.

docs/formats.md lists the kinds; :data:`KINDS` has at least one file of each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.images.readers import open_source

PLANE = np.zeros((32, 48), np.uint16)
STACK = np.zeros((3, 32, 48), np.uint16)
Write = Callable[[Path], object]
#: Pixel sizes along z, y and x in micrometres.
Sizes = tuple[float | None, float | None, float | None]
UNKNOWN: Sizes = (None, None, None)


def plain(per_unit: Any, unit: str = "CENTIMETER", **more: Any) -> Write:
    return lambda path: tifffile.imwrite(
        path, PLANE, resolution=per_unit, resolutionunit=unit, metadata=None, **more
    )


def imagej(*per_unit: Any, **metadata: Any) -> Write:
    resolution = per_unit or (4.0, 4.0)
    return lambda path: tifffile.imwrite(
        path, STACK, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **metadata}
    )


def latin_1(write: Write) -> Write:
    """Let ``write`` write a file, and put the micro sign into it as ImageJ does."""

    def written(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes().replace(b"@m", b"\xb5m"))

    return written


def ome(**metadata: Any) -> Write:
    return lambda path: tifffile.imwrite(
        path, STACK, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **metadata}
    )


def xyz(x: float, y: float, z: float, unit: str) -> dict[str, Any]:
    sizes = {"X": x, "Y": y, "Z": z}
    return {f"PhysicalSize{axis}": size for axis, size in sizes.items()} | {
        f"PhysicalSize{axis}Unit": unit for axis in sizes
    }


def lsm(voxel_m: tuple[float, float, float]) -> Write:
    """Write the fields of CZ_LSMINFO up to the time interval; a thumbnail follows each plane."""
    fields = struct.pack(
        "<Ii8i6d2H5Id", 50350412, 0, 48, 32, 3, 1, 1, 2, 0, 0, *voxel_m, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    )  # fmt: skip
    fields = fields[:4] + struct.pack("<i", len(fields)) + fields[8:]

    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, byteorder="<") as writer:
            for number, plane in enumerate(STACK):
                tag = [(34412, 1, len(fields), fields, True)] if number == 0 else []
                writer.write(plane, extratags=tag, metadata=None, contiguous=False)
                writer.write(plane[::4, ::4], subfiletype=1, metadata=None, contiguous=False)

    return write


def stk(
    calibrated: int, x: tuple[int, int], y: tuple[int, int], unit: bytes, z: tuple[int, int]
) -> Write:
    """Write a MetaMorph stack: UIC2 counts its planes, UIC1 points to its calibration."""

    def write(path: Path) -> None:
        uic2 = [*z, 0, 0, 0, 0] * len(STACK)
        tags = [
            (33628, 4, 8, [3, calibrated, 4, 0, 5, 0, 6, 0], True),
            (33629, 5, len(uic2) // 2, uic2, True),
        ]
        tifffile.imwrite(path, STACK[0], byteorder="<", metadata=None, extratags=tags)
        content = bytearray(path.read_bytes())
        # The pixels of the other planes follow those of the first.
        content += bytes(STACK[1:].nbytes)
        values = struct.pack("<4I", *x, *y) + struct.pack("<I", len(unit)) + unit
        at = len(content)
        uic1 = content.index(struct.pack("<8I", 3, calibrated, 4, 0, 5, 0, 6, 0))
        content[uic1 : uic1 + 32] = struct.pack("<8I", 3, calibrated, 4, at, 5, at + 8, 6, at + 16)
        # UIC1 counts pairs of numbers, UIC2 counts planes.
        for tag, kind, numbers, count in ((33628, 4, 8, 4), (33629, 5, 9, 3)):
            entry = content.index(struct.pack("<HHI", tag, kind, numbers))
            content[entry : entry + 8] = struct.pack("<HHI", tag, kind, count)
        path.write_bytes(content + values)

    return write


def metaseries(state: str, x: float, y: float, unit: str) -> Write:
    properties = "".join(
        f'<prop id="spatial-calibration-{name}" type="{kind}" value="{value}"/>'
        for name, kind, value in (
            ("state", "bool", state), ("x", "float", x), ("y", "float", y),
            ("units", "string", unit),
        )
    )  # fmt: skip
    text = f"<MetaData><PlaneInfo>{properties}</PlaneInfo></MetaData>"
    return plain((72, 72), "INCH", description=text, software="MetaSeries")


def svs(header: str) -> Write:
    """Write a slide of Aperio: tiled, with a thumbnail and a label of the same MPP."""

    def write(path: Path) -> None:
        text = f"Aperio Image Library v11.2.1\r\n48x32 (16x16) JPEG/RGB Q=70|AppMag = 20|{header}"
        options: dict[str, Any] = {"metadata": None, "description": text}
        with tifffile.TiffWriter(path) as writer:
            writer.write(
                np.zeros((64, 96, 3), np.uint8), tile=(16, 16), photometric="rgb", **options
            )
            writer.write(np.zeros((16, 24, 3), np.uint8), photometric="rgb", **options)

    return write


KINDS: dict[str, tuple[Write, Sizes]] = {
    "plain: 20 000 per cm": (plain((20_000, 20_000)), (None, 0.5, 0.5)),
    "plain: y is not x": (plain((20_000, 10_000)), (None, 1.0, 0.5)),
    "plain: 50 800 dpi": (plain((50_800, 50_800), "INCH"), (None, 0.5, 0.5)),
    "plain: 0.325 as a fraction": (plain(((1_000_000, 325 * 10), (400, 13)), "NONE"), UNKNOWN),
    **{
        f"plain: {dpi} dpi": (plain((dpi, dpi), "INCH"), UNKNOWN)
        for dpi in (72, 96, 300, 600, 1200, 4800, 9600)
    },
    "plain: 118.11 per cm": (plain((118.11, 118.11)), UNKNOWN),
    "plain: resolution 0": (plain((0, 0), "INCH"), UNKNOWN),
    **{
        f"ImageJ: {unit}": (imagej(unit=unit, spacing=2), (2.0, 0.25, 0.25))
        for unit in ("micron", "um", "UM", "\\u00B5m", "Microns")
    },
    "ImageJ: µm in Latin-1": (latin_1(imagej(unit="@m", spacing=2)), (2.0, 0.25, 0.25)),
    "ImageJ: NM": (imagej(0.004, 0.004, unit="NM", spacing=300), (0.3, 0.25, 0.25)),
    "ImageJ: mm": (imagej(4000, 2000, unit="mm", spacing=0.002), (2.0, 0.5, 0.25)),
    "ImageJ: inch": (imagej(50_800, 50_800, unit="inch"), (None, 0.5, 0.5)),
    "ImageJ: inch, 300 dpi": (imagej(300, 300, unit="inch"), UNKNOWN),
    "ImageJ: y and z of other units": (
        imagej(4, 0.004, unit="um", yunit="nm", zunit="mm", spacing=0.002), (2.0, 0.25, 0.25)
    ),
    "ImageJ: 1538461 millionths": (
        imagej((1_538_461, 1_000_000), (3_076_923, 1_000_000), unit="um"), (None, 0.325, 0.65)
    ),
    **{
        f"ImageJ: {unit or 'no unit'}": (imagej(unit=unit, spacing=2), UNKNOWN)
        for unit in ("pixel", "Pixels", "")
    },
    "OME: no unit is µm": (
        ome(PhysicalSizeX=0.5, PhysicalSizeY=1.0, PhysicalSizeZ=2), (2.0, 1.0, 0.5)
    ),
    "OME: nm": (ome(**xyz(650, 300, 2000, "nm")), (2.0, 0.3, 0.65)),
    "OME: pm": (ome(**xyz(650_000, 300_000, 2e6, "pm")), (2.0, 0.3, 0.65)),
    "OME: mm": (ome(**xyz(0.00065, 0.0003, 0.002, "mm")), (2.0, 0.3, 0.65)),
    "OME: cm": (ome(**xyz(0.000065, 0.00003, 0.0002, "cm")), (2.0, 0.3, 0.65)),
    "OME: m": (ome(**xyz(6.5e-07, 3e-07, 2e-06, "m")), (2.0, 0.3, 0.65)),
    "OME: Å": (ome(**xyz(6500, 3000, 20_000, "Å")), (2.0, 0.3, 0.65)),
    "OME: inch": (ome(**xyz(1, 0.5, 2, "in")), (50_800.0, 12_700.0, 25_400.0)),
    "OME: pixel": (ome(**xyz(1, 1, 1, "pixel")), UNKNOWN),
    "OME: reference frame": (ome(**xyz(1, 1, 1, "reference frame")), UNKNOWN),
    "OME: x alone": (ome(PhysicalSizeX=0.5), (None, None, 0.5)),
    "OME: digits of binary rounding": (ome(**xyz(0.1 + 0.2, 0.7 + 0.1, 2, "µm")), (2.0, 0.8, 0.3)),
    "LSM": (lsm((6.5e-07, 3e-07, 2e-06)), (2.0, 0.3, 0.65)),
    "LSM without sizes": (lsm((0.0, 0.0, 0.0)), UNKNOWN),
    "STK": (stk(1, (65, 100), (3, 10), b"um\0", (2, 1)), (2.0, 0.3, 0.65)),
    "STK: microns": (stk(1, (65, 100), (65, 100), b"Microns\0", (3, 2)), (1.5, 0.65, 0.65)),
    "STK: not calibrated": (stk(0, (1, 1), (1, 1), b"pixel\0", (2, 1)), UNKNOWN),
    "STK: pixel": (stk(1, (1, 1), (1, 1), b"pixel\0", (0, 1)), UNKNOWN),
    "MetaSeries": (metaseries("on", 0.65, 0.3, "um"), (None, 0.3, 0.65)),
    "MetaSeries: not calibrated": (metaseries("off", 0.65, 0.3, "um"), UNKNOWN),
    "SVS": (svs("MPP = 0.4990|Left = 25.7"), (None, 0.499, 0.499)),
    "SVS without MPP": (svs("Left = 25.7"), UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_are_read_from_the_file(tmp_path: Path, kind: str) -> None:
    write, sizes_um = KINDS[kind]
    path = tmp_path / "image.tif"
    write(path)
    with open_source(path, 0) as source:
        assert source.geometry.sizes_um("ZYX") == sizes_um


def test_a_thumbnail_does_not_have_the_size_of_the_slide(tmp_path: Path) -> None:
    svs("MPP = 0.5")(tmp_path / "slide.svs")
    with open_source(tmp_path / "slide.svs", 1) as source:
        assert source.shape[0] == 16
        assert source.geometry.sizes_um("ZYX") == UNKNOWN


@pytest.mark.parametrize(
    ("options", "unit", "scale"),
    [
        ({"ome": True, "metadata": {"axes": "TYX", "TimeIncrement": 5}}, "second", 5.0),
        (
            {
                "ome": True,
                "metadata": {"axes": "TYX", "TimeIncrement": 5, "TimeIncrementUnit": "min"},
            },
            "minute",
            5.0,
        ),
        ({"imagej": True, "metadata": {"axes": "TYX", "finterval": 60.0}}, "second", 60.0),
        (
            {"imagej": True, "metadata": {"axes": "TYX", "finterval": 2.0, "tunit": "min"}},
            "minute",
            2.0,
        ),
        ({"imagej": True, "metadata": {"axes": "TYX"}}, None, None),
    ],
)
def test_time_steps_are_read_with_their_unit(
    tmp_path: Path, options: dict[str, Any], unit: str | None, scale: float | None
) -> None:
    tifffile.imwrite(tmp_path / "movie.tif", STACK, photometric="minisblack", **options)
    with open_source(tmp_path / "movie.tif") as source:
        axis = source.geometry.axis("T")
    assert (axis.unit, axis.scale) == (unit, scale)


@pytest.mark.parametrize("origin", ["nan", "inf", "a corner", 0])
def test_an_origin_that_is_no_position_is_left_out(tmp_path: Path, origin: object) -> None:
    imagej(unit="um", xorigin=origin)(tmp_path / "image.tif")
    with open_source(tmp_path / "image.tif") as source:
        assert source.geometry.axis("X").translation is None


@pytest.mark.parametrize(("kind", "value", "um"), [("f", 20_000.0, 0.5), ("H", 20_000, 0.5)])
def test_a_resolution_may_be_a_number_instead_of_a_fraction(
    tmp_path: Path, kind: str, value: float, um: float
) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path, PLANE, metadata=None, resolution=(1, 1), resolutionunit="CENTIMETER", byteorder="<"
    )
    content = bytearray(path.read_bytes())
    for number in (282, 283):
        at = content.index(struct.pack("<HHI", number, 5, 1))
        code = {"f": 11, "H": 3}[kind]
        content[at : at + 12] = struct.pack("<HHI", number, code, 1) + struct.pack(
            f"<{kind}", value
        ).ljust(4, b"\0")
    path.write_bytes(content)
    with open_source(path) as source:
        assert source.geometry.sizes_um("YX") == (um, um)


def test_the_origin_of_imagej_is_where_its_coordinates_are_0(tmp_path: Path) -> None:
    imagej(unit="um", xorigin=10.0, yorigin=-4)(tmp_path / "image.tif")
    with open_source(tmp_path / "image.tif") as source:
        assert source.geometry.axis("X").translation == -2.5
        assert source.geometry.axis("Y").translation == 1.0
        assert source.geometry.axis("Z").translation is None


def test_units_stay_those_of_the_file(tmp_path: Path) -> None:
    ome(**xyz(650, 650, 2000, "nm"))(tmp_path / "image.tif")
    with open_source(tmp_path / "image.tif") as source:
        axis = source.geometry.axis("X")
    assert (axis.unit, axis.scale) == ("nanometer", 650.0)
