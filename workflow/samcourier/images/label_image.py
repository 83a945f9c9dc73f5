"""Read an image file that labels the pixels of another image: its truth or its foreground."""

from __future__ import annotations

import numpy as np

from .location import ImageLocation
from .readers import open_source


def read_label_image(path: ImageLocation, mask_axes: str | None = None) -> np.ndarray:
    """Return all pixels of a file of any supported format, with the file's dtype.

    Axes of length 1 other than Y and X are dropped. If the file then has exactly ``mask_axes``,
    such as "TYX", the axes are put into that order. Raises ImageUnfit for a file that
    cannot be read.
    """
    with open_source(path) as source:
        pixels = source.read((slice(None),) * len(source.shape))
        kept = [
            (axis, size)
            for axis, size in zip(source.axes, source.shape, strict=True)
            if size != 1 or axis in "YX"
        ]
    axes = "".join(axis for axis, _ in kept)
    pixels = pixels.reshape([size for _, size in kept])
    if mask_axes and set(axes) == set(mask_axes):
        pixels = pixels.transpose([axes.index(axis) for axis in mask_axes])
    return pixels
