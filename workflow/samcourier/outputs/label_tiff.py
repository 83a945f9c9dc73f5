"""A mask as OME-TIFF, for tools that know nothing else: uint32, zlib, with its pixel size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from ..masks.omezarr import MaskPixels

_CM_PER_UM = 1e-4


def write_label_tiff(
    path: Path, mask: MaskPixels, axes: str, spacing_um: tuple[float | None, ...]
) -> None:
    """Write ``mask``, read plane by plane; ``axes`` such as "TYX" and sizes are the mask's."""
    sizes = dict(zip(axes, spacing_um, strict=True))
    metadata: dict[str, object] = {"axes": axes}
    for axis in "XYZ":
        if sizes.get(axis):
            metadata[f"PhysicalSize{axis}"] = sizes[axis]
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    x_um, y_um = sizes["X"], sizes["Y"]
    tifffile.imwrite(
        path,
        (np.asarray(mask[(*position, ...)]) for position in np.ndindex(mask.shape[:-2])),
        shape=mask.shape,
        dtype=np.uint32,
        ome=True,
        bigtiff=np.prod(mask.shape, dtype=float) * 4 > 2**31,
        photometric="minisblack",
        compression="zlib",
        resolution=(1 / (x_um * _CM_PER_UM), 1 / (y_um * _CM_PER_UM)) if x_um and y_um else None,
        resolutionunit="CENTIMETER" if x_um and y_um else None,
        metadata=metadata,
    )
