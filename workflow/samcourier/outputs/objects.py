"""Measure the objects of a mask and write a table, as Parquet and CSV, with one row per object.

scikit-image's regionprops measures them. Positions count pixels from 0; the centre of the first
pixel is at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from skimage.measure import regionprops_table

from samservice.contract.labels import compacted

from ..images.geometry import Geometry

#: Far finer than any microscope; it takes the digits of binary rounding away.
_UM_DECIMALS = 9
_SHAPE = ("label", "area", "centroid", "bbox")
_INTENSITY = ("intensity_mean", "intensity_max")


def measure(
    mask: np.ndarray,
    pixels: np.ndarray,
    channels: Sequence[str],
    origin: Mapping[str, int],
    geometry: Geometry,
) -> dict[str, np.ndarray | list[Any]]:
    """Return the columns of :func:`table` for one plane or volume, with one entry for each object.

    Args:
        mask: Integer labels, (Y, X) or (Z, Y, X).
        pixels: The pixels under the mask, with the same axes or with C before them.
        channels: Name of each channel.
        origin: Position of the plane in the image's file, by the letters T and Z.
        geometry: That of the mask, along its axes.
    """
    # The memory of regionprops grows with the largest id, which may be 2³² - 1.
    ids, labels = compacted(mask)
    labels = labels.astype(np.int64)
    layers = np.moveaxis(pixels, 0, -1) if pixels.ndim > mask.ndim else pixels[..., None]
    if layers.dtype.kind == "f":
        # The mean of an object is summed in the dtype of the pixels: float16 ends at 65 504.
        layers = layers.astype(np.float64, copy=False)
    measured = regionprops_table(labels, layers, properties=(*_SHAPE, *_INTENSITY))
    axes = "zyx"[-mask.ndim :]
    count = len(measured["label"])
    area_px = np.asarray(measured["area"], np.int64)
    centroids = [np.asarray(measured[f"centroid-{n}"], np.float64) for n in range(mask.ndim)]
    firsts = [np.asarray(measured[f"bbox-{n}"], np.int64) for n in range(mask.ndim)]
    ends = [np.asarray(measured[f"bbox-{n + mask.ndim}"], np.int64) for n in range(mask.ndim)]
    at_border = np.zeros(count, bool)
    for first, end, size in zip(firsts, ends, mask.shape, strict=True):
        at_border |= (first == 0) | (end == size)
    columns: dict[str, Any] = {
        "t": [origin.get("T")] * count,
        "z": [origin.get("Z")] * count,
        "id": ids[np.asarray(measured["label"], np.int64) - 1],
    }
    is_volume = mask.ndim == 3
    columns["volume_px" if is_volume else "area_px"] = area_px
    columns["volume_um3" if is_volume else "area_um2"] = (
        [None] * count
        if (unit := geometry.pixel_um(axes.upper())) is None
        # One exact product and one division: 100 pixels of 0.845 are 84.5.
        else area_px.astype(np.float64) * unit.numerator / unit.denominator
    )
    for axis, centroid in zip(axes, centroids, strict=True):
        columns[f"centroid_{axis}_px"] = centroid
    for axis, centroid in zip(axes, centroids, strict=True):
        along = geometry.axis(axis.upper())
        columns[f"centroid_{axis}_um"] = (
            [None] * count
            if along.size_um is None or along.translation_um is None
            else np.round(along.translation_um + centroid * along.size_um, _UM_DECIMALS)
        )
    for axis, first, end in zip(axes, firsts, ends, strict=True):
        columns[f"bbox_{axis}_first_px"], columns[f"bbox_{axis}_last_px"] = first, end - 1
    columns["touches_border"] = at_border
    for number, channel in enumerate(channels):
        for name in _INTENSITY:
            columns[f"{name}{channel and '_'}{channel}"] = np.asarray(
                measured[f"{name}-{number}"], np.float64
            )
    return columns


def table(image: str, key: str, planes: Sequence[Mapping[str, np.ndarray | list[Any]]]) -> pa.Table:
    """Return the table of an image from the columns of its planes; ``key`` is the mask's."""
    parts = [
        pa.table({name: pa.array(values, _type(name)) for name, values in columns.items()})
        for columns in planes
    ]
    whole = pa.concat_tables(parts)
    names = pa.array([image] * whole.num_rows, pa.string())
    whole = whole.add_column(0, "image", names)
    return whole.replace_schema_metadata({"samcourier_key": key})


def write_parquet(path: Path, objects: pa.Table) -> None:
    """Write the table with zstd; the metadata of the schema hold the mask's key."""
    pyarrow.parquet.write_table(objects, path, compression="zstd")


def write_csv(path: Path, objects: pa.Table) -> None:
    """Write the table with a header; the cell of an unknown value is empty."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="needed")
    pyarrow.csv.write_csv(objects, path, options)


def _type(column: str) -> pa.DataType:
    if column == "id":
        return pa.uint32()
    if column == "touches_border":
        return pa.bool_()
    is_count = column in ("t", "z", "area_px", "volume_px") or column.startswith("bbox_")
    return pa.int64() if is_count else pa.float64()
