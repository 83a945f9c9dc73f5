from __future__ import annotations

import hashlib
import logging
import logging.handlers
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

import samcourier.images.planes
from samcourier.errors import ImageUnfit
from samcourier.images.geometry import Geometry
from samcourier.images.pixel_cache import PIXELS
from samcourier.images.planes import Plane, open_planes
from samcourier.images.readers import Index, open_source
from samcourier.images.readers.tiff import TiffSource
from samcourier.images.selection import Selection, parse_pick
from samservice.contract.image_reference import pixels_sha256

RNG = np.random.default_rng(3)


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 200, shape).astype(dtype)


def ome(axes: str, **metadata: Any) -> dict[str, Any]:
    return {"ome": True, "metadata": {"axes": axes, **metadata}, "photometric": "minisblack"}


def imagej(axes: str, **metadata: Any) -> dict[str, Any]:
    return {"imagej": True, "metadata": {"axes": axes, **metadata}}


def selection(**cells: Any) -> Selection:
    """Return the selection that a row with these cells writes."""
    for axis in "tz":
        if axis in cells:
            cells[axis] = parse_pick(cells[axis], volume=axis == "z")
    return Selection(**cells)


def read_plane(path: Path, **cells: Any) -> Plane:
    """Read the only plane of an image."""
    with open_planes(path, selection(**cells)) as planes:
        assert (len(planes), planes.stack_axes, planes.stack_shape) == (1, "", ())
        plane = planes.read()
        assert (planes.shape, planes.axes, planes.dtype) == (
            plane.pixels.shape,
            plane.axes,
            plane.pixels.dtype,
        )
        return plane


PLAIN: dict[str, Any] = {"photometric": "minisblack", "metadata": None}


@pytest.fixture
def tif(tmp_path: Path) -> Path:
    return tmp_path / "image.tif"


@pytest.mark.parametrize(
    ("shape", "options", "axes", "expected_axes", "expected_shape"),
    [
        ((20, 30), PLAIN, None, "YX", (20, 30)),
        ((20, 30), ome("YX"), None, "YX", (20, 30)),
        ((20, 30), imagej("YX"), None, "YX", (20, 30)),
        ((2, 20, 30), ome("CYX"), None, "CYX", (2, 20, 30)),
        ((2, 20, 30), imagej("CYX"), None, "CYX", (2, 20, 30)),
        ((20, 30, 3), {"photometric": "rgb"}, None, "CYX", (3, 20, 30)),
        ((3, 20, 30), {"photometric": "rgb", "planarconfig": 2}, None, "CYX", (3, 20, 30)),
        ((1, 1, 1, 20, 30), ome("TCZYX"), None, "YX", (20, 30)),
        ((1, 2, 1, 20, 30), ome("TCZYX"), None, "CYX", (2, 20, 30)),
        ((1, 1, 20, 30), {"metadata": {"axes": "TZYX"}}, None, "YX", (20, 30)),
        ((4, 20, 30), imagej("TYX"), "CYX", "CYX", (4, 20, 30)),
        ((4, 20, 30), PLAIN, "CYX", "CYX", (4, 20, 30)),
        ((20, 30, 4), PLAIN, "YXC", "CYX", (4, 20, 30)),
        ((20, 30), ome("YX"), "XY", "YX", (30, 20)),
    ],
)
def test_axes_are_the_files_unless_overridden(
    tif: Path,
    shape: tuple[int, ...],
    options: dict[str, Any],
    axes: str | None,
    expected_axes: str,
    expected_shape: tuple[int, ...],
) -> None:
    written = pixels(*shape, dtype="uint8")
    tifffile.imwrite(tif, written, **options)
    plane = read_plane(tif, axes=axes)
    assert (plane.axes, plane.pixels.shape) == (expected_axes, expected_shape)
    assert plane.pixels.flags.c_contiguous
    assert sorted(plane.pixels.ravel()) == sorted(written.ravel())
    assert plane.pixels_sha256 == pixels_sha256(plane.pixels, plane.axes)


def test_axes_are_moved_not_reshaped(tif: Path) -> None:
    written = pixels(4, 2, 20, 30)
    tifffile.imwrite(tif, written, **imagej("ZCYX"))
    plane = read_plane(tif, z="volume")
    assert plane.axes == "CZYX"
    np.testing.assert_array_equal(plane.pixels, written.transpose(1, 0, 2, 3))


def geometry_of(path: Path, scene: int | str | None = None) -> Geometry:
    with open_source(path, scene) as source:
        return source.geometry


@pytest.mark.parametrize(
    ("shape", "options", "axes", "message"),
    [
        ((4, 20, 30), ome("ZYX"), None, r"has 4 Z; write into the column z of the sheet which"),
        ((4, 20, 30), ome("ZYX"), "TYX", "has 4 time points; write into the column t"),
        ((4, 20, 30), imagej("TYX"), None, r"has 4 time points; .* \(4\), a range .* max"),
        ((6, 20, 30), {"metadata": {"axes": "QYX"}}, None, "does not label.* Q .*write the axes"),
        ((6, 20, 30), {"metadata": {"axes": "HYX"}}, None, "does not label.* H "),
        (
            (20, 30),
            PLAIN,
            "ZYX",
            r"axes ZYX name 3 dimensions, expected .* file's shape \(20, 30\) \(YX\)",
        ),
        ((4, 20, 30), PLAIN, "YX", "axes YX name 2 dimensions"),
        ((20, 30), PLAIN, "ZX", "axes 'ZX', expected letters"),
        ((20, 30), PLAIN, "YXX", "axes 'YXX', expected letters"),
        ((2, 20, 30, 3), {"photometric": "rgb"}, "CYXS", "samples within channels"),
    ],
)
def test_an_image_that_leaves_its_axes_open_is_refused(
    tif: Path, shape: tuple[int, ...], options: dict[str, Any], axes: str | None, message: str
) -> None:
    tifffile.imwrite(tif, pixels(*shape, dtype="uint8"), **options)
    with pytest.raises(ImageUnfit, match=message) as caught:
        read_plane(tif, axes=axes)
    assert str(caught.value).startswith(f"{tif}: ")


def test_only_the_plane_asked_for_is_read(tif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = pixels(3, 20, 30)
    tifffile.imwrite(tif, written, **ome("TYX"))
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda self: pytest.fail("was read"))
    np.testing.assert_array_equal(read_plane(tif, t="1").pixels, written[1])


@pytest.mark.parametrize(
    ("scene", "number"), [(0, 0), (1, 1), ("second", 1), (2, 2), ("small", 2), ("first", 0)]
)
def test_a_scene_is_picked_by_index_or_name(tif: Path, scene: int | str, number: int) -> None:
    written = [pixels(20, 30), pixels(20, 30), pixels(8, 9)]
    with tifffile.TiffWriter(tif, ome=True) as writer:
        for name, each in zip(("first", "second", "small"), written, strict=True):
            writer.write(each, metadata={"axes": "YX", "Name": name, "PhysicalSizeX": len(name)})
    plane = read_plane(tif, scene=scene)
    np.testing.assert_array_equal(plane.pixels, written[number])
    assert geometry_of(tif, scene).size_um("X") == len(("first", "second", "small")[number])


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (None, "is one of several, expected scene 0 to 1 or one of a, b; write it into the sheet"),
        (2, "no scene 2, expected scene 0 to 1 or one of a, b"),
        ("c", "no scene 'c', expected scene 0 to 1 or one of a, b"),
    ],
)
def test_a_scene_that_is_not_there_is_refused(
    tif: Path, scene: int | str | None, message: str
) -> None:
    with tifffile.TiffWriter(tif, ome=True) as writer:
        for name in "ab":
            writer.write(pixels(20, 30), metadata={"axes": "YX", "Name": name})
    with pytest.raises(ImageUnfit, match=message):
        read_plane(tif, scene=scene)


@pytest.mark.parametrize(
    ("scenes", "is_one"),
    [
        ({"overview": (8, 9), "pos1": (20, 30), "pos2": (20, 30)}, False),
        ({"roi1": (20, 30), "roi2": (16, 24), "roi3": (8, 9)}, False),
        ({"slide": (20, 30), "label image": (8, 9), "Macro": (10, 9)}, True),
        ({"slide": (20, 30)}, True),
    ],
)
def test_an_image_of_an_ome_tiff_is_never_left_out_for_its_size(
    tif: Path, scenes: dict[str, tuple[int, int]], is_one: bool
) -> None:
    with tifffile.TiffWriter(tif, ome=True) as writer:
        for name, shape in scenes.items():
            writer.write(pixels(*shape), metadata={"axes": "YX", "Name": name})
    if is_one:
        assert read_plane(tif).pixels.shape == (20, 30)
    else:
        with pytest.raises(ImageUnfit, match=r"is one of several, expected scene 0 to 2 or one of"):
            read_plane(tif)


@pytest.mark.parametrize(
    ("shapes", "is_one"), [([(20, 30), (8, 9)], True), ([(8, 9), (20, 30)], False)]
)
def test_a_plain_tiff_has_thumbnails_that_are_smaller(
    tif: Path, shapes: list[tuple[int, int]], is_one: bool
) -> None:
    with tifffile.TiffWriter(tif) as writer:
        for shape in shapes:
            writer.write(pixels(*shape), metadata=None)
    if is_one:
        assert read_plane(tif).pixels.shape == shapes[0]
    else:
        with pytest.raises(ImageUnfit, match="is one of several, expected scene 0 to 1"):
            read_plane(tif)


def test_of_a_pyramid_the_full_size_is_read(tif: Path) -> None:
    written = pixels(64, 64)
    with tifffile.TiffWriter(tif, ome=True) as writer:
        writer.write(written, subifds=1)
        writer.write(written[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_plane(tif).pixels, written)


@pytest.mark.parametrize(
    ("channel", "picked"), [(None, None), (0, 0), (2, 2), ("DAPI", 0), ("405 nm", 1)]
)
def test_a_channel_is_picked_by_index_or_name(
    tif: Path, channel: int | str | None, picked: int | None
) -> None:
    written = pixels(3, 20, 30)
    tifffile.imwrite(tif, written, **ome("CYX", Channel={"Name": ["DAPI", "405 nm", "GFP"]}))
    plane = read_plane(tif, channel=channel)
    np.testing.assert_array_equal(plane.pixels, written if picked is None else written[picked])
    assert plane.axes == ("CYX" if picked is None else "YX")


@pytest.mark.parametrize(
    ("names", "channel", "message"),
    [
        (["DAPI", "GFP"], 2, "no channel 2, expected 0 to 1 or one of DAPI, GFP"),
        (["DAPI", "GFP"], -1, "no channel -1"),
        (["DAPI", "GFP"], "dapi", "no channel 'dapi', expected 0 to 1 or one of DAPI, GFP"),
        (["DAPI", "DAPI"], "DAPI", "no channel 'DAPI'"),
        (None, "DAPI", "no channel 'DAPI', expected 0 to 1; the file names none"),
    ],
)
def test_a_channel_that_is_not_there_is_refused(
    tif: Path, names: list[str] | None, channel: int | str, message: str
) -> None:
    metadata = {"Channel": {"Name": names}} if names else {}
    tifffile.imwrite(tif, pixels(2, 20, 30), **(ome("CYX", **metadata) if names else imagej("CYX")))
    with pytest.raises(ImageUnfit, match=message):
        read_plane(tif, channel=channel)


def test_the_only_channel_of_a_plane_is_channel_0(tif: Path) -> None:
    tifffile.imwrite(tif, pixels(20, 30))
    assert read_plane(tif, channel=0).axes == "YX"
    with pytest.raises(ImageUnfit, match="no channel 1, expected 0 to 0"):
        read_plane(tif, channel=1)


def test_a_channel_of_a_stack_is_a_stack(tif: Path) -> None:
    written = pixels(4, 2, 20, 30)
    tifffile.imwrite(tif, written, **imagej("ZCYX"))
    plane = read_plane(tif, z="volume", channel=1)
    assert plane.axes == "ZYX"
    np.testing.assert_array_equal(plane.pixels, written[:, 1])


STACK = ("TZCYX", (3, 5, 2, 20, 30))


@pytest.mark.parametrize("options", [ome("TCZYX"), imagej("TZCYX")], ids=["ome", "imagej"])
@pytest.mark.parametrize(
    ("cells", "axes", "plane_axes", "expected"),
    [
        ({"t": "1", "z": "2", "channel": 0}, "YX", "YX", lambda a: a[1, 2, 0]),
        ({"t": "1", "z": "2"}, "CYX", "CYX", lambda a: a[1, 2]),
        ({"t": "1", "z": "2", "channel": "1,0"}, "CYX", "CYX", lambda a: a[1, 2, ::-1]),
        ({"t": "2", "z": "max", "channel": 1}, "YX", "YX", lambda a: a[2, :, 1].max(0)),
        ({"t": "2", "z": "max 1-3", "channel": 1}, "YX", "YX", lambda a: a[2, 1:4, 1].max(0)),
        ({"t": "max", "z": "max", "channel": 1}, "YX", "YX", lambda a: a[:, :, 1].max((0, 1))),
        ({"t": "all", "z": "4", "channel": 0}, "TYX", "YX", lambda a: a[:, 4, 0]),
        ({"t": "1-2", "z": "max"}, "TCYX", "CYX", lambda a: a[1:].max(1)),
        ({"t": "0", "z": "1-3", "channel": 0}, "ZYX", "YX", lambda a: a[0, 1:4, 0]),
        ({"t": "0", "z": "volume"}, "CZYX", "CZYX", lambda a: a[0].swapaxes(0, 1)),
        ({"t": "0", "z": "volume 2-2", "channel": 0}, "YX", "YX", lambda a: a[0, 2, 0]),
        ({"t": "all", "z": "volume 0-1", "channel": 1}, "TZYX", "ZYX", lambda a: a[:, :2, 1]),
        ({"t": "all", "z": "all", "channel": 1}, "TZYX", "YX", lambda a: a[:, :, 1]),
        ({"t": "all", "z": "3-4"}, "TCZYX", "CYX", lambda a: a[:, 3:].swapaxes(1, 2)),
    ],
)
def test_t_and_z_are_picked_projected_or_taken_one_by_one(
    tif: Path,
    options: dict[str, Any],
    cells: dict[str, Any],
    axes: str,
    plane_axes: str,
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    written = pixels(*STACK[1])
    order = [STACK[0].index(axis) for axis in options["metadata"]["axes"]]
    tifffile.imwrite(tif, written.transpose(order), **options)
    wanted = expected(written)
    with open_planes(tif, selection(**cells)) as planes:
        assert (planes.axes, planes.plane_axes, planes.shape) == (axes, plane_axes, wanted.shape)
        assert planes.mask_axes == axes.replace("C", "")
        # Of TCZYX the mask has TZYX: where a plane lies counts T and Z alone.
        if axes == "TCZYX":
            wanted = wanted.swapaxes(1, 2)
        for number in range(len(planes)):
            np.testing.assert_array_equal(
                planes.read(number).pixels, wanted[planes.position(number)]
            )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"t": "3", "z": "0"}, "t 3, expected positions 0 to 2"),
        ({"t": "0", "z": "3-5"}, "z 3-5, expected positions 0 to 4"),
        ({"t": "0", "z": "max 4-9"}, "z max 4-9, expected positions 0 to 4"),
        ({"t": "0"}, "has 5 Z; write into the column z"),
        ({"z": "0"}, "has 3 time points; write into the column t"),
        ({"t": "0", "z": "0", "channel": "0,1,0"}, "expected one, or nucleus and cytoplasm"),
        ({"t": "0", "z": "0", "channel": "1,1"}, "expected one, or nucleus and cytoplasm"),
        ({"t": "0", "z": "0", "channel": "0,DAPI"}, "no channel 'DAPI', expected 0 to 1"),
    ],
)
def test_positions_that_are_not_there_are_refused(
    tif: Path, cells: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tif, pixels(*STACK[1]), **imagej(STACK[0]))
    with pytest.raises(ImageUnfit, match=message), open_planes(tif, selection(**cells)):
        pass


@pytest.mark.parametrize("cells", [{"t": "0"}, {"z": "all"}, {"z": "volume"}, {"t": "max"}])
def test_the_only_position_of_an_axis_that_is_not_there_may_be_asked_for(
    tif: Path, cells: dict[str, Any]
) -> None:
    tifffile.imwrite(tif, pixels(20, 30))
    assert read_plane(tif, **cells).axes == "YX"


def test_another_position_of_an_axis_that_is_not_there_is_refused(tif: Path) -> None:
    tifffile.imwrite(tif, pixels(20, 30))
    with pytest.raises(ImageUnfit, match="z 1, expected positions 0 to 0"):
        read_plane(tif, z="1")


def test_the_digest_of_a_stack_tells_its_planes_and_their_arrangement(tif: Path) -> None:
    tifffile.imwrite(tif, pixels(2, 3, 20, 30), **imagej("TZYX"))
    digests = set()
    for axes, cells in (
        ("TZYX", {"t": "all", "z": "all"}),
        ("ZTYX", {"t": "all", "z": "all"}),
        ("TZYX", {"t": "all", "z": "0"}),
        ("TZYX", {"t": "all", "z": "1"}),
        ("TZYX", {"t": "all", "z": "volume"}),
    ):
        with open_planes(tif, selection(axes=axes, **cells)) as planes:
            digests.add(planes.sha256())
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("options", "expected_um"),
    [
        (PLAIN, None),
        (ome("YX"), None),
        (ome("YX", PhysicalSizeX=0.5), 0.5),
        (ome("YX", PhysicalSizeX=0.5, PhysicalSizeXUnit="µm"), 0.5),
        (ome("YX", PhysicalSizeX=250, PhysicalSizeXUnit="nm"), 0.25),
        (ome("YX", PhysicalSizeX=0.001, PhysicalSizeXUnit="mm"), 1.0),
        (ome("YX", PhysicalSizeX=1, PhysicalSizeXUnit="pixel"), None),
        (imagej("YX", unit="micron") | {"resolution": (4.0, 4.0)}, 0.25),
        (imagej("YX", unit="um") | {"resolution": (4.0, 4.0)}, 0.25),
        (imagej("YX", unit="\\u00B5m") | {"resolution": (4.0, 4.0)}, 0.25),
        (imagej("YX", unit="nm") | {"resolution": (0.004, 0.004)}, 0.25),
        (imagej("YX", unit="pixel") | {"resolution": (1.0, 1.0)}, None),
        (imagej("YX") | {"resolution": (4.0, 4.0)}, None),
        (PLAIN | {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        (PLAIN | {"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        (PLAIN | {"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        (PLAIN | {"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, None),
        (PLAIN | {"resolution": (0, 0), "resolutionunit": "INCH"}, None),
    ],
)
def test_the_pixel_size_is_read_from_the_file(
    tif: Path, options: dict[str, Any], expected_um: float | None
) -> None:
    tifffile.imwrite(tif, pixels(20, 30), **options)
    assert geometry_of(tif).size_um("X") == expected_um


@pytest.mark.parametrize(
    ("options", "expected_um"),
    [
        (PLAIN | {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, None),
        (ome("ZYX", PhysicalSizeX=0.5), None),
        (ome("ZYX", PhysicalSizeZ=2), 2.0),
        (ome("ZYX", PhysicalSizeX=0.5, PhysicalSizeZ=300, PhysicalSizeZUnit="nm"), 0.3),
        (ome("ZYX", PhysicalSizeZ=1, PhysicalSizeZUnit="reference frame"), None),
        (ome("ZYX", PhysicalSizeZ="deep"), None),
        (ome("TYX", TimeIncrement=5.0), None),
        (imagej("ZYX", unit="um", spacing=1.5), 1.5),
        (imagej("ZYX", unit="\\u00B5m", spacing=1.5), 1.5),
        (imagej("ZYX", unit="um", zunit="nm", spacing=300), 0.3),
        (imagej("ZYX", spacing=1.5), None),
        (imagej("ZYX", unit="pixel", spacing=1.5), None),
        (imagej("ZYX", unit="um", spacing=-1), None),
        (imagej("ZYX", unit="um"), None),
        (imagej("TYX", unit="um", finterval=5.0), None),
    ],
)
@pytest.mark.parametrize("z", ["1", "1-2", "max", "volume"])
def test_the_z_spacing_is_read_from_the_file(
    tif: Path, options: dict[str, Any], expected_um: float | None, z: str
) -> None:
    tifffile.imwrite(tif, pixels(3, 20, 30), **options)
    with open_planes(tif, selection(axes="ZYX", z=z)) as planes:
        assert planes.geometry.letters == planes.mask_axes
        known = planes.geometry.size_um("Z")
    assert known == (expected_um if "Z" in planes.mask_axes else None)


@pytest.mark.parametrize(
    ("unit", "scales", "expected_um"),
    [
        ("micrometer", [[1, 2.0, 0.5, 0.5]], 2.0),
        ("nanometer", [[1, 300.0, 0.5, 0.5]], 0.3),
        ("micrometer", [[1, 2.0, 0.5, 0.5], [60.0, 1.5, 1, 1]], 3.0),
        ("micrometer", [], None),
        ("parsec", [[1, 2.0, 0.5, 0.5]], None),
        (None, [[1, 2.0, 0.5, 0.5]], None),
        ("micrometer", [[1, 0.0, 0.5, 0.5]], None),
    ],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_z_spacing_of_an_ome_zarr_is_that_of_its_axis_and_scales(
    tmp_path: Path, version: str, unit: str | None, scales: list[list[float]], expected_um: Any
) -> None:
    axes: list[dict[str, str]] = [{"name": each, "type": "space"} for each in "tzyx"]
    axes[0] |= {"type": "time", "unit": "second"}
    axes[1] |= {"unit": unit} if unit else {}
    steps = [[{"type": "scale", "scale": scale}] for scale in scales]
    level = {"path": "0", "coordinateTransformations": steps[0] if steps else []}
    whole = {"coordinateTransformations": steps[1]} if len(steps) > 1 else {}
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2 + (version == "0.5"))
    group.create_array("0", data=pixels(2, 3, 20, 30))
    content = {"multiscales": [{"axes": axes, "datasets": [level], **whole}]}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": "0.5", **content}})
    with open_planes(tmp_path / "image.zarr", selection(t="all", z="volume")) as planes:
        assert planes.geometry.size_um("Z") == expected_um


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "i4", "f2", "f4", "f8"])
def test_pixel_types_stay_and_become_native(
    tif: Path, dtype: str, byteorder: Literal["<", ">"]
) -> None:
    written = pixels(20, 30, dtype=dtype)
    tifffile.imwrite(tif, written, byteorder=byteorder)
    plane = read_plane(tif)
    assert plane.pixels.dtype == np.dtype(dtype)
    assert plane.pixels.dtype.isnative
    np.testing.assert_array_equal(plane.pixels, written)
    assert plane.pixels_sha256 == pixels_sha256(written, "YX")


def test_booleans_become_uint8(tif: Path) -> None:
    written = pixels(20, 32) > 100
    tifffile.imwrite(tif, written)
    assert read_plane(tif).pixels.dtype == np.uint8
    np.testing.assert_array_equal(read_plane(tif).pixels, written)


def test_complex_pixels_are_refused(tif: Path) -> None:
    tifffile.imwrite(tif, pixels(20, 30).astype("complex64"))
    with pytest.raises(ImageUnfit, match="pixels are complex64, expected integers"):
        read_plane(tif)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "jpegxl"])
def test_compressed_tiffs_are_read(tif: Path, compression: str) -> None:
    written = pixels(20, 30)
    tifffile.imwrite(tif, written, compression=compression)
    np.testing.assert_array_equal(read_plane(tif).pixels, written)


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((20, 30), "uint8", "YX"),
        ((20, 30), "uint16", "YX"),
        ((20, 30, 3), "uint8", "CYX"),
        ((20, 30, 3), "uint16", "CYX"),
    ],
)
def test_a_png_is_read_with_all_its_bits(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, axes: str
) -> None:
    written = pixels(*shape, dtype=dtype) * np.dtype(dtype).type(1 if dtype == "uint8" else 300)
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(written))
    plane = read_plane(path)
    assert (plane.axes, plane.pixels.dtype) == (axes, np.dtype(dtype))
    expected = written if axes == "YX" else np.moveaxis(written, -1, 0)
    np.testing.assert_array_equal(plane.pixels, expected)


def write_png(path: Path, written: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(written))


def write_tiff(compression: str | None = None, **more: Any) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, written: np.ndarray) -> None:
        samples = {"photometric": "rgb" if written.shape[2] == 4 else "minisblack", **more}
        if more.get("planarconfig") == "separate":
            written = np.moveaxis(written, -1, 0)
        tifffile.imwrite(
            path, written, compression=compression, extrasamples=["unassalpha"], **samples
        )

    return write


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize(
    "write",
    [
        write_png,
        write_tiff(),
        write_tiff("zlib", tile=(16, 16)),
        write_tiff(planarconfig="separate"),
    ],
    ids=["png", "plain tiff", "tiles", "planes"],
)
def test_alpha_is_not_a_channel(
    tmp_path: Path, write: Callable[[Path, np.ndarray], None], samples: int
) -> None:
    written = pixels(40, 48, samples, dtype="uint8")
    path = tmp_path / "image"
    write(path, written)
    seen = np.moveaxis(written, -1, 0)[: samples - 1]
    with open_planes(path, Selection()) as planes:
        np.testing.assert_array_equal(planes.read().pixels.reshape(seen.shape), seen)
        part = planes.read_part(0, slice(5, 21), slice(3, 40))
        np.testing.assert_array_equal(part.reshape(-1, 16, 37), seen[:, 5:21, 3:40])


@pytest.mark.parametrize(("shape", "axes"), [((20, 30), "YX"), ((20, 30, 3), "CYX")])
def test_a_jpeg_is_read(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    written = np.full(shape, 90, np.uint8)
    path = tmp_path / "image.jpg"
    path.write_bytes(imagecodecs.jpeg_encode(written, level=100))
    plane = read_plane(path)
    assert (plane.axes, plane.pixels.dtype) == (axes, np.uint8)
    np.testing.assert_allclose(plane.pixels, 90, atol=1)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = PIL.Image.new("P", (30, 20), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "image.png")
    plane = read_plane(tmp_path / "image.png")
    assert plane.axes == "CYX"
    assert [int(channel.max()) for channel in plane.pixels[:3]] == [10, 20, 30]


def write_ome_zarr(path: Path, written: np.ndarray, axes: str, version: str, **more: Any) -> None:
    """Write an image as ome-zarr-py does, 0.65 µm a pixel."""
    kinds = {"t": "time", "c": "channel"}
    named = [
        {"name": axis, "type": kinds.get(axis, "space")}
        | ({"unit": "micrometer"} if axis in "zyx" else {})
        for axis in axes.lower()
    ]
    scale = [0.65 if axis in "YX" else 1.0 for axis in axes]
    levels = [written, written[..., ::2, ::2]]
    is_v2 = version == "0.4"
    group = zarr.open_group(path, mode="w", zarr_format=2 if is_v2 else 3)
    datasets = []
    for name, level in enumerate(levels):
        group.create_array(str(name), data=level, chunks=(1,) * (level.ndim - 2) + (16, 16))
        step = {"type": "scale", "scale": [s * (2**name if s != 1 else 1) for s in scale]}
        datasets.append({"path": str(name), "coordinateTransformations": [step]})
    content = {"multiscales": [{"axes": named, "datasets": datasets}], **more}
    group.attrs.update(content if is_v2 else {"ome": {"version": "0.5", **content}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_at_full_size(tmp_path: Path, version: str) -> None:
    written = pixels(2, 3, 20, 30)
    path = tmp_path / "image.zarr"
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    write_ome_zarr(path, written, "CZYX", version, omero=omero)
    plane = read_plane(path, channel="GFP", z="1")
    np.testing.assert_array_equal(plane.pixels, written[1, 1])
    assert (plane.axes, geometry_of(path).size_um("X")) == ("YX", 0.65)
    assert read_plane(path, z="volume").axes == "CZYX"


def test_the_images_of_a_bioformats2raw_folder_are_scenes(tmp_path: Path) -> None:
    root = tmp_path / "image.zarr"
    zarr.open_group(root, mode="w", zarr_format=2).attrs.update({"bioformats2raw.layout": 3})
    written = [pixels(20, 30) for _ in range(11)]
    for number, each in enumerate(written):
        write_ome_zarr(root / str(number), each, "YX", "0.4")
    np.testing.assert_array_equal(read_plane(root, scene=10).pixels, written[10])
    with pytest.raises(ImageUnfit, match="is one of several, expected scene 0 to 10"):
        read_plane(root)


def test_a_chunk_that_cannot_be_decoded_is_unfit(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_ome_zarr(path, pixels(20, 30), "YX", "0.4")
    (path / "0" / "0.0").write_bytes(b"no chunk")
    with pytest.raises(ImageUnfit, match="damaged OME-Zarr"):
        read_plane(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, -1])
@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        PLAIN | {"compression": "zlib"},
        ome("ZYX"),
        ome("ZYX") | {"compression": "zlib"},
        imagej("ZYX"),
    ],
    ids=["plain", "plain zlib", "ome", "ome zlib", "imagej"],
)
def test_a_truncated_stack_is_never_taken_for_a_plane(
    tif: Path, options: dict[str, Any], kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    written = pixels(4, 64, 64)
    tifffile.imwrite(tif, written, **options)
    whole = tif.read_bytes()
    tif.write_bytes(whole[:-1] if kept == -1 else whole[: int(len(whole) * kept)])
    try:
        plane = read_plane(tif, axes="ZYX", z="volume")
    except ImageUnfit:
        pass
    else:
        np.testing.assert_array_equal(plane.pixels, written)
    with pytest.raises(ImageUnfit):
        read_plane(tif)
    assert capfd.readouterr() == ("", "")


def test_tifffiles_log_does_not_leak(tif: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tif, pixels(4, 64, 64), **ome("ZYX"))
    tif.write_bytes(tif.read_bytes()[:20_000])
    leaked = logging.handlers.BufferingHandler(100)
    logging.getLogger().addHandler(leaked)
    try:
        with pytest.raises(ImageUnfit, match=r"damaged TIFF .*offset"):
            read_plane(tif, z="volume")
    finally:
        logging.getLogger().removeHandler(leaked)
    assert leaked.buffer == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("array", "axes"),
    [
        (np.zeros((2, 3), "u2"), "XY"),
        (np.zeros((3, 2), "u2"), "YX"),
        (np.zeros((2, 3), "i2"), "YX"),
        (np.zeros((1, 2, 3), "u2"), "CYX"),
        (np.ones((2, 3), "u2"), "YX"),
    ],
)
def test_the_digest_of_pixels_tells_type_shape_axes_and_values(
    array: np.ndarray, axes: str
) -> None:
    assert pixels_sha256(array, axes) != pixels_sha256(np.zeros((2, 3), "u2"), "YX")


def test_the_digest_of_pixels_is_the_same_for_every_layout_and_for_ever() -> None:
    array = np.arange(6, dtype="<u2").reshape(2, 3)
    expected = hashlib.sha256(b"<u2 (2, 3) YX\n" + array.tobytes()).hexdigest()
    for same in (array, np.asfortranarray(array), array.astype(">u2")):
        assert pixels_sha256(same, "YX") == expected


# Parts of planes.


@pytest.mark.parametrize("axes", ["YX", "CYX", "YXS", "ZYX", "TCYX"])
@pytest.mark.parametrize(
    "how",
    [{}, {"byteorder": ">"}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 7}],
    ids=["plain", "big-endian", "tiled", "compressed"],
)
def test_a_part_of_a_plane_equals_that_part_of_the_plane(
    tmp_path: Path, axes: str, how: dict[str, Any]
) -> None:
    shape = tuple({"Y": 37, "X": 41, "C": 2, "S": 3, "Z": 4, "T": 2}[letter] for letter in axes)
    pixels = np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)
    path = tmp_path / "image.tif"
    photometric = "rgb" if "S" in axes else "minisblack"
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, photometric=photometric, **how)
    every = parse_pick("all", volume=False)
    with open_planes(path, Selection(t=every, z=every)) as planes:
        for number in (0, len(planes) - 1):
            whole = planes.read(number).pixels
            for rows in (slice(0, 37), slice(5, 20), slice(36, 37)):
                for columns in (slice(0, 41), slice(0, 9), slice(30, 41)):
                    part = planes.read_part(number, rows, columns)
                    np.testing.assert_array_equal(part, whole[..., rows, columns])
                    assert part.dtype == planes.dtype and part.flags.c_contiguous
            for channel in range(planes.channel_count):
                part = planes.read_part(number, slice(3, 9), slice(4, 6), channel)
                expected = whole[channel] if planes.plane_axes == "CYX" else whole
                np.testing.assert_array_equal(part, expected[3:9, 4:6])


@pytest.mark.parametrize("axes", ["YX", "CYX", "ZYX"])
def test_the_digest_in_bands_equals_that_of_the_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: str
) -> None:
    monkeypatch.setattr(samcourier.images.planes, "_BAND_PX", 100)
    monkeypatch.setattr(samcourier.images.planes, "_BAND_ROWS", 5)
    pixels = np.random.default_rng(0).random((3, 37, 41)[-len(axes) :]).astype(np.float32)
    form: dict[str, Any] = {"metadata": {"axes": axes}, "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "image.tif", pixels, **form)
    selection = Selection(z=parse_pick("all", volume=False) if "Z" in axes else None)
    with open_planes(tmp_path / "image.tif", selection) as planes:
        assert planes.sha256(in_bands=True) == planes.sha256()


def test_a_plain_tiff_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((300, 300), np.uint16))
    with open_planes(path) as planes:
        planes.read_part(0, slice(290, 300), slice(0, 300))
        os.truncate(path, 100_000)
        with pytest.raises(ImageUnfit, match=r"damaged TIFF \(the file ends \d+ bytes too early"):
            planes.read_part(0, slice(290, 300), slice(0, 300))


@pytest.mark.parametrize(
    ("cells", "reads_of_each"),
    [({"z": "all"}, 1), ({"z": "volume"}, 1), ({"z": "max"}, 1), ({"t": "all", "z": "max"}, 1)],
)
def test_a_stack_that_is_hashed_and_sent_is_read_once(
    tif: Path, monkeypatch: pytest.MonkeyPatch, cells: dict[str, str], reads_of_each: int
) -> None:
    axes, shape = ("TZYX", (3, 4, 20, 30)) if "t" in cells else ("ZYX", (4, 20, 30))
    tifffile.imwrite(tif, pixels(*shape), **ome(axes))
    read: list[Index] = []
    original = TiffSource.read

    def counted(self: TiffSource, index: Index) -> np.ndarray:
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(TiffSource, "read", counted)
    with open_planes(tif, selection(**cells)) as planes:
        first = planes.read()
        if planes.stack_axes:
            planes.sha256()
            assert [planes.read(number).axes for number in range(len(planes))]
            np.testing.assert_array_equal(planes.read().pixels, first.pixels)
    assert len(set(map(str, read))) == len(read) / reads_of_each


def test_planes_that_do_not_fit_the_cache_are_read_again(
    tif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pixels(4, 20, 30)
    tifffile.imwrite(tif, written, **ome("ZYX"))
    monkeypatch.setattr(PIXELS, "limit_bytes", written.nbytes - 1)
    with open_planes(tif, selection(z="all")) as planes:
        planes.sha256()
        assert PIXELS.total_bytes == 0
        for number in range(4):
            np.testing.assert_array_equal(planes.read(number).pixels, written[number])


def test_the_planes_that_were_kept_go_with_the_image(tif: Path) -> None:
    written = pixels(4, 20, 30)
    tifffile.imwrite(tif, written, **ome("ZYX"))
    with open_planes(tif, selection(z="all")) as planes:
        planes.sha256()
        assert PIXELS.total_bytes == written.nbytes
    assert PIXELS.total_bytes == 0


def test_a_read_that_the_system_cuts_short_is_continued(
    tif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux returns 2 GiB less one page at most from one call, a signal may return less."""
    written = pixels(4, 20, 30)
    tifffile.imwrite(tif, written, **ome("ZYX"))
    whole = os.preadv

    def short(file: int, buffers: list[memoryview], offset: int) -> int:
        return whole(file, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", short)
    with open_planes(tif, selection(z="1-2")) as planes:
        for number in range(2):
            np.testing.assert_array_equal(planes.read(number).pixels, written[1 + number])
