"""Read an image file that labels the pixels of another image: its truth or its foreground."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from .location import ImageLocation
from .readers import Source, open_source


@runtime_checkable
class HasIndices(Protocol):
    """A source that may have palette colours in place of the indices that the file stores."""

    def with_indices(self) -> Source:
        """Return the source of the indices."""
        ...


def read_label_image(path: ImageLocation, mask_axes: str | None = None) -> np.ndarray:
    """Return all pixels of a file of any supported format, with the file's dtype.

    Axes of length 1 other than Y and X are dropped. If the file then has exactly ``mask_axes``,
    such as "TYX", the axes are put into that order. Of a palette TIFF the indices are the labels.
    Raises ImageUnfit for a file that
    cannot be read.
    """
    with open_source(path) as opened:
        source = opened.with_indices() if isinstance(opened, HasIndices) else opened
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
