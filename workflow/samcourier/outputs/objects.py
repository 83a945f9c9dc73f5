"""Measure the objects of a mask and write a table, as Parquet and CSV, with one row per object.

:mod:`.regions` has the definitions. Positions count pixels from 0; the centre of the first pixel is
at 0. A value that is not defined is empty: a size in micrometres without a pixel size, a length in
pixels or an angle where pixels are not square, and in volumes a perimeter, an angle and an
eccentricity have no column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from samservice.contract.labels import compacted

from ..images.geometry import Geometry
from ..settings.run_settings import ObjectSettings
from . import regions
from .regions import Regions
from .surroundings import convex_areas, rings

#: Far finer than any microscope; it takes the digits of binary rounding away.
_UM_DECIMALS = 9

Columns = dict[str, Any]


def measure(
    mask: np.ndarray,
    pixels: np.ndarray,
    channels: Sequence[str],
    origin: Mapping[str, int],
    geometry: Geometry,
    settings: ObjectSettings | None = None,
) -> Columns:
    """Return the columns of :func:`table` for one plane or volume, with one entry for each object.

    Args:
        mask: Integer labels, (Y, X) or (Z, Y, X).
        pixels: The pixels under the mask, with the same axes or with C before them.
        channels: Name of each channel.
        origin: Position of the plane in the image's file, by the letters T and Z.
        geometry: That of the mask, along its axes.
        settings: Which further columns are measured.

    Raises ValueError for a ring in micrometres without a pixel size.
    """
    settings = settings or ObjectSettings()
    ids, labels = compacted(mask)
    found = Regions.of(labels, len(ids))
    letters = "ZYX"[-mask.ndim :]
    sizes_um = geometry.sizes_um(letters)
    columns: Columns = {
        "t": [origin.get("T")] * found.count,
        "z": [origin.get("Z")] * found.count,
        "id": ids,
    }
    columns |= _sizes(found, geometry, letters)
    columns |= _positions(found, geometry, letters)
    columns |= _shapes(found, sizes_um, columns)
    if mask.ndim == 2:
        columns |= _perimeters(labels, found.count, sizes_um)
    if settings.solidity:
        hulls = convex_areas(labels, found.count)
        columns["convex_area_px"] = hulls
        columns["solidity"] = found.area_px / hulls
    layers = [pixels] if pixels.ndim == mask.ndim else list(pixels)
    columns |= _intensities(found, layers, channels, "")
    if settings.expand_um is not None:
        ring = Regions.of(rings(labels, settings.expand_um, sizes_um), found.count)
        columns["ring_area_px"] = ring.area_px
        columns |= _intensities(ring, layers, channels, "ring_")
    return columns


def _sizes(found: Regions, geometry: Geometry, letters: str) -> Columns:
    is_volume = len(letters) == 3
    unit = geometry.pixel_um(letters)
    return {
        "volume_px" if is_volume else "area_px": found.area_px,
        "volume_um3" if is_volume else "area_um2": [None] * found.count
        if unit is None
        # One exact product and one division: 100 pixels of 0.845 are 84.5.
        else found.area_px.astype(np.float64) * unit.numerator / unit.denominator,
    }


def _positions(found: Regions, geometry: Geometry, letters: str) -> Columns:
    columns: Columns = {}
    centroids, boxes = regions.centroids(found), regions.bounding_boxes(found)
    for letter, centroid in zip(letters, centroids, strict=True):
        columns[f"centroid_{letter.lower()}_px"] = centroid
    for letter, centroid in zip(letters, centroids, strict=True):
        along = geometry.axis(letter)
        columns[f"centroid_{letter.lower()}_um"] = (
            [None] * found.count
            if along.size_um is None or along.translation_um is None
            else np.round(along.translation_um + centroid * along.size_um, _UM_DECIMALS)
        )
    at_border = np.zeros(found.count, bool)
    for letter, (first, last), size in zip(letters, boxes, found.shape, strict=True):
        columns[f"bbox_{letter.lower()}_first_px"] = first
        columns[f"bbox_{letter.lower()}_last_px"] = last
        at_border |= (first == 0) | (last == size - 1)
    return columns | {"touches_border": at_border}


def _shapes(
    found: Regions, sizes_um: Sequence[float | None], measured: Mapping[str, Any]
) -> Columns:
    """Return diameter, axes, extent and, in planes, eccentricity and orientation."""
    dimensions, none = len(found.shape), [None] * found.count
    known_um = [size for size in sizes_um if size is not None]
    has_sizes = len(known_um) == dimensions
    # Without sizes, pixels count as square, as everywhere in microscopy.
    is_square = not has_sizes or len(set(known_um)) == 1
    in_px = regions.inertia(found, [1.0] * dimensions)
    in_um = regions.inertia(found, known_um) if has_sizes else None
    major_px, minor_px = regions.axis_lengths(in_px)
    major_um, minor_um = (none, none) if in_um is None else regions.axis_lengths(in_um)
    size_um = measured["area_um2" if dimensions == 2 else "volume_um3"]
    box_px = np.ones(found.count)
    for letter in "zyx"[-dimensions:]:
        box_px *= measured[f"bbox_{letter}_last_px"] - measured[f"bbox_{letter}_first_px"] + 1
    columns: Columns = {
        "equivalent_diameter_px": _diameters(found.area_px, dimensions) if is_square else none,
        "equivalent_diameter_um": _diameters(np.asarray(size_um), dimensions)
        if has_sizes
        else none,
        "major_axis_px": major_px if is_square else none,
        "major_axis_um": major_um,
        "minor_axis_px": minor_px if is_square else none,
        "minor_axis_um": minor_um,
        "extent": found.area_px / box_px,
    }
    if dimensions == 2:
        columns["eccentricity"] = regions.eccentricity(in_px if in_um is None else in_um)
        columns["orientation_rad"] = regions.orientation(in_px) if is_square else none
    return columns


def _perimeters(labels: np.ndarray, count: int, sizes_um: Sequence[float | None]) -> Columns:
    none = [None] * count
    size_um = sizes_um[0]
    is_square = len(set(sizes_um)) == 1
    lengths_px = regions.perimeters(labels, count) if is_square else none
    has_size = is_square and size_um is not None
    return {
        "perimeter_px": lengths_px,
        "perimeter_um": np.asarray(lengths_px) * size_um if has_size else none,
    }


def _diameters(sizes: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the diameter of the circle or sphere of each size."""
    return (2 * dimensions * sizes / math.pi) ** (1 / dimensions)


def _intensities(
    found: Regions, layers: Sequence[np.ndarray], channels: Sequence[str], prefix: str
) -> Columns:
    columns: Columns = {}
    for layer, channel in zip(layers, channels, strict=True):
        for name, values in regions.intensities(found, layer).items():
            columns[f"{prefix}intensity_{name}{channel and '_'}{channel}"] = values
    return columns


def table(
    image: str,
    key: str,
    planes: Sequence[Mapping[str, np.ndarray | list[Any]]],
    pixel_um2: Fraction | None = None,
) -> pa.Table:
    """Return the table of an image from the columns of its planes.

    ``key`` is the mask's. ``pixel_um2`` is the area of a pixel of a plane, None for a volume and if
    it is unknown; the metadata of the schema have both.
    """
    parts = [
        pa.table(
            {
                name: pa.array(values, column_type(name), from_pandas=True)
                for name, values in columns.items()
            }
        )
        for columns in planes
    ]
    whole = pa.concat_tables(parts)
    names = pa.array([image] * whole.num_rows, pa.string())
    whole = whole.add_column(0, "image", names)
    metadata = {"samcourier_key": key}
    if pixel_um2 is not None:
        metadata["samcourier_pixel_um2"] = repr(float(pixel_um2))
    return whole.replace_schema_metadata(metadata)


def write_parquet(path: Path, objects: pa.Table) -> None:
    """Write the table with zstd; the metadata of the schema hold the mask's key."""
    pyarrow.parquet.write_table(objects, path, compression="zstd")


def write_csv(path: Path, objects: pa.Table) -> None:
    """Write the table with a header; the cell of an unknown value is empty."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="needed")
    pyarrow.csv.write_csv(objects, path, options)


def column_type(column: str) -> pa.DataType:
    """Return the type of a column of the table."""
    if column == "id":
        return pa.uint32()
    if column == "touches_border":
        return pa.bool_()
    counts = ("t", "z", "area_px", "volume_px", "ring_area_px")
    is_count = column in counts or column.startswith("bbox_")
    return pa.int64() if is_count else pa.float64()
