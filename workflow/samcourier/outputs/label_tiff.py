"""A mask as OME-TIFF, for tools that do not read OME-Zarr: uint32, zlib, with its geometry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..images.geometry import AxisGeometry, Geometry
from ..images.units import MICROMETER, OME_SYMBOLS, OME_TIME_SYMBOLS
from ..masks.omezarr import MaskPixels

_UM_PER_CM = 1e4


def write_label_tiff(path: Path, mask: MaskPixels, geometry: Geometry) -> None:
    """Write ``mask`` plane by plane; ``geometry`` has its axes, such as "TYX"."""
    x_um, y_um = geometry.sizes_um("XY")
    resolution = (_UM_PER_CM / x_um, _UM_PER_CM / y_um) if x_um and y_um else None
    metadata: dict[str, Any] = {"axes": geometry.letters}
    for axis in geometry.axes:
        metadata |= _size(axis)
    if positions := _positions(geometry, math.prod(mask.shape[:-2])):
        metadata["Plane"] = positions
    tifffile.imwrite(
        path,
        (np.asarray(mask[(*position, ...)]) for position in np.ndindex(mask.shape[:-2])),
        shape=mask.shape,
        dtype=np.uint32,
        ome=True,
        bigtiff=np.prod(mask.shape, dtype=float) * 4 > 2**31,
        photometric="minisblack",
        compression="zlib",
        resolution=resolution,
        resolutionunit="CENTIMETER" if resolution else None,
        metadata=metadata,
    )


def _size(axis: AxisGeometry) -> dict[str, Any]:
    """Return the attributes of Pixels that state the scale along an axis, in its own unit."""
    if axis.scale is None or axis.unit is None:
        return {}
    if axis.letter == "T":
        symbol = OME_TIME_SYMBOLS.get(axis.unit)
        return {"TimeIncrement": axis.scale, "TimeIncrementUnit": symbol} if symbol else {}
    symbol = OME_SYMBOLS.get(axis.unit)
    name = f"PhysicalSize{axis.letter}"
    return {name: axis.scale, f"{name}Unit": symbol} if symbol else {}


def _positions(geometry: Geometry, plane_count: int) -> dict[str, Any]:
    """Return the attributes of each Plane that state the translation along y and x."""
    found: dict[str, Any] = {}
    for axis in map(geometry.axis, "YX"):
        if axis.translation and axis.translation_um is not None:
            found[f"Position{axis.letter}"] = [axis.translation_um] * plane_count
            found[f"Position{axis.letter}Unit"] = [OME_SYMBOLS[MICROMETER]] * plane_count
    return found
