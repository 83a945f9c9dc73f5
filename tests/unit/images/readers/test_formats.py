"""docs/formats.md: what was opened with what; each row of its tables is one of these cases."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

from samcourier.errors import ImageUnfit
from samcourier.images.planes import open_planes
from samcourier.images.readers import open_source
from samcourier.images.selection import Selection, parse_pick

from ...bad_images import CASES

REPO = Path(__file__).parents[4]
RNG = np.random.default_rng(5)


def noise(*shape: int, dtype: str = "uint16") -> np.ndarray:
    """Return pixels that no compression makes smaller by much."""
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


STACK = noise(3, 8, 2, 128, 128)
PLANE = noise(256, 256)
COLOUR = noise(128, 128, 3, dtype="uint8")


@dataclass(frozen=True)
class Format:
    """``write`` makes a file, of which ``cells`` ask for ``wanted``, (Y, X) or (C, Y, X)."""

    write: Callable[[Path], object]
    wanted: np.ndarray
    cells: dict[str, Any] = field(default_factory=dict)
    suffix: str = ".tif"
    is_exact: bool = True
    pixel_size_um: float | None = None
    z_spacing_um: float | None = None
    needs: str | None = None


def imwrite(array: np.ndarray, **options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, array, **options)


def ome(axes: str, **options: Any) -> dict[str, Any]:
    metadata = {"axes": axes, "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeZ": 2000, "PhysicalSizeZUnit": "nm"}
    return {"ome": True, "metadata": metadata, "photometric": "minisblack", **options}


def write_pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        options: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack"}
        writer.write(STACK[0, 0], subifds=2, metadata={"axes": "CYX"}, **options)
        for step in (2, 4):
            writer.write(STACK[0, 0, :, ::step, ::step], subfiletype=1, **options)


def write_scenes(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number in range(3):
            writer.write(STACK[number, 0, 0], metadata={"axes": "YX", "Name": f"spot {number}"})


def write_ome_zarr(path: Path, zarr_format: int) -> None:
    """Write an image with zarr alone, as OME-Zarr 0.4 (zarr 2) or 0.5 (zarr 3)."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    levels = []
    for level, step in enumerate((1, 2)):
        data = STACK[0, ..., ::step, ::step].swapaxes(0, 1)
        group.create_array(str(level), data=data, chunks=(1, 1, 64, 64))
        scale = {"type": "scale", "scale": [1.0, 2.0, 0.65 * step, 0.65 * step]}
        levels.append({"path": str(level), "coordinateTransformations": [scale]})
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": each, "type": "space", "unit": "micrometer"} for each in "zyx"]
    content: dict[str, Any] = {"multiscales": [{"axes": axes, "datasets": levels}]}
    group.attrs.update(content if zarr_format == 2 else {"ome": {"version": "0.5", **content}})


def write_ome_zarr_py(path: Path, of_version: str) -> None:
    """Write an image with ome-zarr-py."""
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    chosen = FormatV04() if of_version == "0.4" else FormatV05()
    group = zarr.open_group(path, mode="w", zarr_format=chosen.zarr_format)
    options = {"chunks": (1, 1, 64, 64)}
    image = STACK[0].swapaxes(0, 1)
    write_image(image, group, axes="czyx", fmt=chosen, storage_options=options)


def write_czi(path: Path) -> None:
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as document:
        for t, z, c in np.ndindex(STACK.shape[:3]):
            plane = {"T": t, "Z": z, "C": c}
            document.write(data=STACK[t, z, c][..., np.newaxis], plane=plane)
        document.write_metadata(
            "image", channel_names={0: "DAPI", 1: "GFP"}, scale_x=6.5e-7, scale_z=2e-6
        )


def pillow(path: Path) -> None:
    PIL.Image.fromarray(COLOUR).save(path)


ONE = {"t": "1", "z": "5", "channel": 1}
SIZES: dict[str, Any] = {"pixel_size_um": 0.65, "z_spacing_um": 2.0}
OME_ZARR: dict[str, Any] = {
    "wanted": STACK[0, 5, 1],
    "cells": {"z": "5", "channel": 1},
    "suffix": ".ome.zarr",
}

FORMATS: dict[str, Format] = {
    "TIFF, plain": Format(imwrite(PLANE), PLANE),
    "TIFF, RGB": Format(imwrite(COLOUR, photometric="rgb"), np.moveaxis(COLOUR, -1, 0)),
    "TIFF, tiled": Format(imwrite(PLANE, tile=(64, 64)), PLANE),
    "TIFF, big-endian": Format(imwrite(PLANE, byteorder=">"), PLANE),
    "TIFF, LZW": Format(imwrite(PLANE, compression="lzw", predictor=True), PLANE),
    "TIFF, deflate": Format(imwrite(PLANE, compression="zlib"), PLANE),
    "TIFF, zstd": Format(imwrite(PLANE, compression="zstd"), PLANE),
    "TIFF, LZMA": Format(imwrite(PLANE, compression="lzma"), PLANE),
    "TIFF, PackBits": Format(imwrite(COLOUR[..., 0], compression="packbits"), COLOUR[..., 0]),
    "TIFF, JPEG": Format(
        imwrite(np.full_like(COLOUR, 90), compression="jpeg", tile=(64, 64), photometric="rgb"),
        np.full((3, 128, 128), 90, np.uint8),
        is_exact=False,
    ),
    "TIFF, JPEG 2000": Format(imwrite(PLANE, compression="jpeg2000"), PLANE),
    "TIFF, JPEG XL": Format(imwrite(PLANE, compression="jpegxl"), PLANE),
    "BigTIFF": Format(imwrite(PLANE, bigtiff=True), PLANE),
    "ImageJ hyperstack": Format(
        imwrite(
            STACK,
            imagej=True,
            resolution=(2, 2),
            metadata={"axes": "TZCYX", "unit": "um", "spacing": 1.5},
        ),
        STACK[1, 5, 1],
        ONE,
        pixel_size_um=0.5,
        z_spacing_um=1.5,
    ),
    "OME-TIFF": Format(imwrite(STACK, **ome("TZCYX")), STACK[1, 5, 1], ONE, **SIZES),
    "OME-TIFF, tiled, LZW": Format(
        imwrite(STACK, **ome("TZCYX", tile=(64, 64), compression="lzw")),
        STACK[1, 5, 1],
        ONE,
        **SIZES,
    ),
    "OME-BigTIFF": Format(
        imwrite(STACK, **ome("TZCYX", bigtiff=True)), STACK[1, 5, 1], ONE, **SIZES
    ),
    "OME-TIFF, pyramid": Format(write_pyramid, STACK[0, 0, 1], {"channel": 1}),
    "OME-TIFF, several scenes": Format(write_scenes, STACK[2, 0, 0], {"scene": "spot 2"}),
    "PNG, 16 bits": Format(
        lambda path: path.write_bytes(imagecodecs.png_encode(PLANE)), PLANE, suffix=".png"
    ),
    "PNG, RGB": Format(pillow, np.moveaxis(COLOUR, -1, 0), suffix=".png"),
    "JPEG": Format(
        lambda path: path.write_bytes(imagecodecs.jpeg_encode(np.full((64, 64), 90, "u1"))),
        np.full((64, 64), 90, "u1"),
        suffix=".jpg",
        is_exact=False,
    ),
    "OME-Zarr 0.4": Format(lambda path: write_ome_zarr(path, 2), **SIZES, **OME_ZARR),
    "OME-Zarr 0.5": Format(lambda path: write_ome_zarr(path, 3), **SIZES, **OME_ZARR),
    "OME-Zarr 0.4, by ome-zarr": Format(
        lambda path: write_ome_zarr_py(path, "0.4"), needs="ome_zarr", **OME_ZARR
    ),
    "OME-Zarr 0.5, by ome-zarr": Format(
        lambda path: write_ome_zarr_py(path, "0.5"), needs="ome_zarr", **OME_ZARR
    ),
    "CZI": Format(write_czi, STACK[1, 5, 1], ONE, ".czi", needs="pylibCZIrw", **SIZES),
}


def opened(path: Path, cells: dict[str, Any]) -> Any:
    picked = {
        name: parse_pick(cell, volume=name == "z") if name in "tz" else cell
        for name, cell in cells.items()
    }
    return open_planes(path, Selection(**picked))


def written(kind: str, folder: Path) -> tuple[Format, Path]:
    form = FORMATS[kind]
    if form.needs is not None and importlib.util.find_spec(form.needs) is None:
        pytest.skip(f"{form.needs} is not installed")
    path = folder / f"image{form.suffix}"
    form.write(path)
    return form, path


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_this_kind_is_read(tmp_path: Path, kind: str) -> None:
    form, path = written(kind, tmp_path)
    with opened(path, form.cells) as planes:
        plane = planes.read()
    assert plane.axes == ("CYX" if form.wanted.ndim == 3 else "YX")
    np.testing.assert_allclose(plane.pixels, form.wanted, atol=0 if form.is_exact else 2)
    scene = form.cells.get("scene")
    with open_source(path, scene) as source:
        assert source.geometry.size_um("X") == form.pixel_size_um
        assert source.geometry.size_um("Z") == form.z_spacing_um


def bytes_read() -> int:
    """Return how many bytes this process has asked of files, as Linux counts them."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes read")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "kind",
    ["ImageJ hyperstack", "OME-TIFF", "OME-TIFF, tiled, LZW", "OME-BigTIFF", "OME-Zarr 0.4",
     "OME-Zarr 0.5", "OME-TIFF, several scenes", "OME-TIFF, pyramid"],
)  # fmt: skip
def test_of_a_stack_only_the_plane_asked_for_is_read(tmp_path: Path, kind: str) -> None:
    form, path = written(kind, tmp_path)
    with opened(path, form.cells) as planes:
        # The first look at zarr reads what zarr itself needs.
        planes.read()
    with opened(path, form.cells) as planes:
        before = bytes_read()
        planes.read()
        taken = bytes_read() - before
    # Noise does not become smaller; headers and compression's own bytes are the rest.
    assert 0.9 * form.wanted.nbytes < taken < 1.5 * form.wanted.nbytes


def test_a_volume_is_read_once(tmp_path: Path) -> None:
    _, path = written("OME-TIFF", tmp_path)
    with opened(path, {"t": "1", "z": "volume", "channel": 0}) as planes:
        assert (planes.plane_axes, planes.mask_axes) == ("ZYX", "ZYX")
        before = bytes_read()
        np.testing.assert_array_equal(planes.read().pixels, STACK[1, :, 0])
        assert bytes_read() - before < 1.5 * STACK[1, :, 0].nbytes


@pytest.mark.parametrize(
    ("kind", "package"), [("CZI", "pylibCZIrw"), ("LIF", "bioio-lif"), ("ND2", "bioio-nd2")]
)
def test_a_vendor_s_file_names_the_reader_that_is_missing(
    tmp_path: Path, kind: str, package: str
) -> None:
    if importlib.util.find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    case = CASES[f"{kind} without its reader"]
    path = tmp_path / f"image{case.suffix}"
    case.make(path)
    with pytest.raises(ImageUnfit, match=rf"a {kind} file, .* expected {package}: pip install"):
        opened(path, {}).__enter__()


# The document.

DOCUMENT = (REPO / "docs/formats.md").read_text()


def rows_under(heading: str) -> dict[str, str]:
    """Return {first cell: second cell} of the table under a heading."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in section.split("\n") if line.startswith("| ")]
    return {row[0].strip(): row[1].strip(" |") for row in cells[2:]}


def test_every_kind_that_is_opened_is_in_the_document() -> None:
    assert list(rows_under("Opened")) == list(FORMATS)


def test_every_refusal_is_in_the_document_with_the_line_that_is_said() -> None:
    said = rows_under("Refused")
    refused = {kind: case.refusal for kind, case in CASES.items() if case.refusal is not None}
    assert list(said) == list(refused)
    for kind, pattern in refused.items():
        assert re.search(pattern, said[kind].strip("`").replace("\\|", "|")), kind


def test_every_odd_but_sound_kind_is_in_the_document() -> None:
    assert list(rows_under("Unusual but valid")) == [
        kind for kind, case in CASES.items() if case.refusal is None
    ]


@pytest.mark.parametrize("package", ["tifffile", "imagecodecs", "zarr"])
def test_the_versions_in_the_document_are_those_of_the_lock(package: str) -> None:
    assert f"{package} {version(package)}" in DOCUMENT
