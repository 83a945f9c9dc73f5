"""An image file that says something of each pixel of another image: its truth, its foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .readers import open_source


def read_label_image(path: Path, mask_axes: str | None = None) -> np.ndarray:
    """Return all pixels of a file of any format that images come in, as they are.

    Axes of length 1 other than Y and X are dropped; the rest is put into the order of
    ``mask_axes``, such as "TYX", where the file has exactly these. Raises ImageUnfit for a file
    that cannot be read.
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
