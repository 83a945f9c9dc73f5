"""Geometry from an OME-Zarr file to all that a run writes, as napari's reader shows it.

The right values follow from the metadata by hand: an area is a number of pixels times the size of a
pixel along y and along x.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from napari_ome_zarr import napari_get_reader

from samcourier.images.geometry import SheetSize
from samcourier.images.selection import Selection, parse_pick
from samcourier.outputs.make import Outputs
from samcourier.outputs.parts import OutputsSource
from samcourier.results.layout import output_path
from samcourier.segmentation.finish import make_outputs, write
from samcourier.segmentation.plane import Segmented

from .batch_settings import batch_settings
from .one_image import prepared_image

SIZES = {"t": 2, "c": 2, "z": 3, "y": 40, "x": 50}
NAMES = ("input_labels", "objects_csv", "polygons", "preview", "tiff")


def scale(*numbers: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(numbers)}


def translation(*numbers: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(numbers)}


@dataclass(frozen=True)
class Case:
    """An image and what is right of it.

    ``unit`` is that of z, y and x; ``level`` has the transformations of the full-size level,
    ``common`` those of all levels. ``mask`` and ``offset`` are scale and translation of the mask,
    whose units are ``units``; ``pixel`` is the area (volume) of a pixel in µm² (µm³).
    """

    axes: str
    unit: str | None
    level: list[dict[str, Any]]
    mask: list[float]
    units: list[str | None]
    pixel: float | None
    common: tuple[dict[str, Any], ...] = ()
    offset: list[float] | None = None
    of_the_sheet: SheetSize | None = None
    one_z: bool = False


NM, UM = "nanometer", "micrometer"
CASES = {
    "micrometres": Case("cyx", UM, [scale(1, 0.65, 0.65)], [0.65, 0.65], [UM, UM], 0.4225),
    "nanometres": Case("cyx", NM, [scale(1, 650, 650)], [650.0, 650.0], [NM, NM], 0.4225),
    "y is not x": Case("cyx", UM, [scale(1, 1.3, 0.65)], [1.3, 0.65], [UM, UM], 0.845),
    "no unit": Case("cyx", None, [scale(1, 650, 325)], [650.0, 325.0], [None, None], None),
    "a unit of nobody": Case("yx", "furlong", [scale(2, 2)], [2.0, 2.0], ["furlong"] * 2, None),
    "an unusual spelling": Case("yx", "µm", [scale(2, 2)], [2.0, 2.0], [UM, UM], 4.0),
    "translated": Case(
        "cyx", UM, [scale(1, 0.65, 0.65), translation(0, -20.5, -30.2)], [0.65, 0.65], [UM, UM],
        0.4225, offset=[-20.5, -30.2],
    ),
    "scaled and translated again": Case(
        "yx", UM, [scale(0.5, 0.25), translation(10, 20)], [1.5, 0.5], [UM, UM], 0.75,
        common=(scale(3, 2), translation(1, 1)), offset=[31.0, 41.0],
    ),
    "translated by all levels alone": Case(
        "yx", UM, [scale(0.5, 0.5)], [0.5, 0.5], [UM, UM], 0.25,
        common=(translation(7, 8),), offset=[7.0, 8.0],
    ),
    "time": Case(
        "tyx", UM, [scale(30, 0.5, 0.5)], [30.0, 0.5, 0.5], ["second", UM, UM], 0.25
    ),
    "a volume": Case(
        "czyx", UM, [scale(1, 2, 0.5, 0.25)], [2.0, 0.5, 0.25], [UM] * 3, 0.25
    ),
    "a z of one plane": Case(
        "tczyx", UM, [scale(30, 1, 2, 0.5, 0.5)], [30.0, 0.5, 0.5], ["second", UM, UM], 0.25,
        one_z=True,
    ),
    "digits of binary rounding": Case(
        "yx", UM, [scale(0.1 + 0.2, 0.1 + 0.2)], [0.3, 0.3], [UM, UM], 0.09
    ),
    "the sheet, one number": Case(
        "cyx", NM, [scale(1, 650, 650)], [0.5, 0.5], [UM, UM], 0.25, of_the_sheet=0.5
    ),
    "the sheet, as the file": Case(
        "cyx", NM, [scale(1, 650, 650)], [650.0, 650.0], [NM, NM], 0.4225, of_the_sheet=0.65
    ),
    "the sheet, y x": Case(
        "zyx", NM, [scale(2000, 650, 650), translation(0, 1000, 0)], [2000.0, 1.0, 0.5],
        [NM, UM, UM], 1.0, offset=[0.0, 1.0, 0.0], of_the_sheet=(1.0, 0.5),
    ),
    "the sheet, z y x": Case(
        "zyx", NM, [scale(2000, 650, 650)], [4.0, 1.0, 0.5], [UM] * 3, 2.0,
        of_the_sheet=(4.0, 1.0, 0.5),
    ),
    "the sheet, no unit in the file": Case(
        "yx", None, [scale(3, 3), translation(9, 9)], [0.5, 0.5], [UM, UM], 0.25, of_the_sheet=0.5
    ),
}  # fmt: skip


def write_image(path: Path, case: Case, version: str) -> None:
    sizes = SIZES | ({"z": 1} if case.one_z else {})
    axes: list[dict[str, Any]] = []
    for name in case.axes:
        kind = {"t": "time", "c": "channel"}.get(name, "space")
        unit = {"t": "second", "c": None}.get(name, case.unit)
        axes.append({"name": name, "type": kind} | ({"unit": unit} if unit else {}))
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    shape = [sizes[name] for name in case.axes]
    group.create_array("0", data=np.arange(np.prod(shape), dtype=np.uint16).reshape(shape))
    dataset = {"path": "0", "coordinateTransformations": case.level}
    multiscale: dict[str, Any] = {"axes": axes, "datasets": [dataset]}
    if case.common:
        multiscale["coordinateTransformations"] = list(case.common)
    content: dict[str, Any] = {"multiscales": [{"version": version, **multiscale}]}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": "0.5", **content}})


def shown(path: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each kind of layer that napari's reader makes of an image."""
    reader = napari_get_reader(str(path))
    assert reader is not None
    return {kind: settings for _, settings, kind in reader(str(path))}


def place(settings: dict[str, Any]) -> tuple[Any, ...]:
    """Return scale, unit and position of a layer."""
    position = np.asarray(settings["affine"].affine_matrix)[:-1, -1]
    return tuple(settings["scale"]), settings.get("units"), tuple(position)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", CASES)
async def test_the_geometry_of_an_image_travels_with_it(
    tmp_path: Path, name: str, version: Any
) -> None:
    case = CASES[name]
    path = tmp_path / "cell.ome.zarr"
    write_image(path, case, version)
    settings = batch_settings(tmp_path / "results", ome_zarr=version)
    is_volume = "z" in case.axes and not case.one_z
    picks = {
        "t": parse_pick("all", volume=False) if "t" in case.axes else None,
        "z": parse_pick("volume", volume=True) if is_volume else None,
    }
    cells = {"selection": Selection(**picks), "pixel_size_um": case.of_the_sheet}
    async with prepared_image(path, settings, **cells) as prepared:
        planes = prepared.planes
        labels = np.zeros(planes.mask_shape, np.uint32)
        labels[..., 10:20, 5:25] = 1
        finished = await write(prepared, Segmented(labels, 1, None), settings, lambda _: None)
        source = OutputsSource(prepared.request.row, planes, prepared.key, prepared.geometry)
        outputs = Outputs(settings.dataset_dir, NAMES, source)
        made = await make_outputs(prepared, finished, outputs, {}, lambda _: None)
    assert {key: each.refused for key, each in made.outputs.items()} == dict.fromkeys(
        made.outputs, None
    )

    attributes: Any = dict(zarr.open_group(finished.mask, mode="r").attrs)
    (multiscale,) = attributes.get("ome", attributes)["multiscales"]
    expected = [scale(*case.mask)] + ([translation(*case.offset)] if case.offset else [])
    assert multiscale["datasets"][0]["coordinateTransformations"] == expected
    assert [axis.get("unit") for axis in multiscale["axes"]] == case.units

    layers = shown(path)
    assert place(layers["labels"]) == place(layers["image"])

    def of(output: str) -> Path:
        return output_path(settings.dataset_dir, "cell", output)

    with of("objects_csv").open() as stream:
        first = next(csv.DictReader(stream))
    unit, count = ("volume_um3", 600) if is_volume else ("area_um2", 200)
    assert first[unit] == ("" if case.pixel is None else f"{case.pixel * count:g}")
    y, x = case.mask[-2:]
    y_offset, x_offset = (case.offset or [0, 0])[-2:]
    if case.pixel is not None:
        to_um = {NM: 0.001, UM: 1.0}[str(case.units[-1])]
        assert float(first["centroid_y_um"]) == pytest.approx((y * 14.5 + y_offset) * to_um)
        assert float(first["centroid_x_um"]) == pytest.approx((x * 14.5 + x_offset) * to_um)

    content = json.loads(of("polygons").read_text())
    stated = {axis["axis"]: axis["scale"] for axis in content["samcourier"]["axes"]}
    assert [stated[letter] for letter in "yx"] == [y, x]

    height, width = imagecodecs.png_decode(of("preview").read_bytes()).shape[:2]
    ratio = y / x if case.pixel is not None else 1
    assert (height, width) == ((40 * ratio, 50) if ratio >= 1 else (40, 50 / ratio))


async def test_a_mask_of_some_planes_lies_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "cell.ome.zarr"
    write_image(path, Case("tzyx", UM, [scale(30, 2, 0.5, 0.5)], [], [], None), "0.4")
    selection = Selection(
        t=parse_pick("1-1", volume=False), z=parse_pick("volume 1-2", volume=True)
    )
    async with prepared_image(path, batch_settings(tmp_path), selection=selection) as prepared:
        assert prepared.geometry.letters == "ZYX"
        assert prepared.geometry.axis("Z").translation == 2.0
        assert prepared.form["geometry"][0]["translation"] == 2.0
