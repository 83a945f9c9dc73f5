"""What lies around the objects of a label image: convex hulls and rings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage.measure import regionprops
from skimage.segmentation import expand_labels


def convex_areas(labels: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.float64]:
    """Return the pixels in the convex hull of each object, NaN where it has none.

    ``labels``, (Y, X) or (Z, Y, X), holds 1..``count``. The hull is that of scikit-image. An object
    whose pixels lie in one line or plane may have none in a volume.
    """
    areas = np.full(count, np.nan)
    with warnings.catch_warnings():
        # A flat object: its hull is absent, which the result says.
        warnings.simplefilter("ignore")
        for region in regionprops(labels.astype(np.int64)):
            try:
                area = float(region.area_convex)
            except (ValueError, RuntimeError):
                continue
            if area >= region.num_pixels:
                areas[region.label - 1] = area
    return areas


def rings(
    labels: npt.NDArray[np.integer], width_um: float, sizes_um: Sequence[float | None]
) -> npt.NDArray[np.integer]:
    """Return a label image with a ring of ``width_um`` around each object, and no object itself.

    Where rings meet, a pixel belongs to the nearest object. ``sizes_um`` is the pixel size along
    each axis. Raises ValueError without it.
    """
    known_um = [size for size in sizes_um if size is not None]
    if len(known_um) < labels.ndim:
        raise ValueError(
            f"a ring of {width_um:g} µm needs the pixel size, which neither the file nor the sheet"
            " states"
        )
    expanded = expand_labels(labels, width_um, spacing=tuple(known_um))
    return np.where(labels > 0, 0, expanded)
