"""Restrict a mask to a foreground, the image in the sheet's column ``foreground``.

The labels outside of the foreground are set to 0. An object that crosses its edge keeps its id and
the part inside, however small. The service segments the whole image, so that the objects inside
are the same as without a foreground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from samservice.contract.image_reference import pixels_sha256
from samservice.contract.labels import present

from ..errors import ImageUnfit
from ..images.label_image import read_label_image
from ..images.location import ImageLocation
from ..images.planes import Planes
from .omezarr import MaskPixels

#: Number of rows of a mask in memory at a time; the foreground itself is in memory as a whole.
_BAND_ROWS = 1024


class ClippedMask:
    """A mask of any size that is set to 0 outside of ``inside`` when it is read.

    Implements :class:`.omezarr.MaskPixels`.
    """

    dtype = np.dtype(np.uint32)

    def __init__(self, mask: MaskPixels, inside: np.ndarray) -> None:
        self.shape = mask.shape
        self._mask = mask
        self._inside = np.broadcast_to(inside, mask.shape)

    def __getitem__(self, block: Any) -> Any:
        return np.where(self._inside[block], self._mask[block], np.uint32(0))


class Clipped(NamedTuple):
    """The restricted mask and its number of objects; for a stack the sum over its planes."""

    mask: MaskPixels
    object_count: int


@dataclass(frozen=True)
class Foreground:
    """The pixels where objects may be.

    Attributes:
        inside: bool, (Y, X) or the shape of the mask.
        sha256: Digest of ``inside``, see :func:`samcourier.images.planes.pixels_sha256`.
    """

    inside: np.ndarray
    sha256: str

    def clip(self, mask: MaskPixels, stack_ndim: int) -> Clipped:
        """Return ``mask``, uint32, set to 0 outside; its first ``stack_ndim`` axes are a stack."""
        clipped = ClippedMask(mask, self.inside)
        planes = np.ndindex(clipped.shape[:stack_ndim])
        count = sum(_count_objects(clipped, position) for position in planes)
        return Clipped(clipped[...] if isinstance(mask, np.ndarray) else clipped, count)


def _count_objects(clipped: ClippedMask, position: tuple[int, ...]) -> int:
    """Return the number of ids in one plane, reading it in bands of rows."""
    *others, row_count, column_count = clipped.shape
    here = [slice(index, index + 1) for index in position]
    here += [slice(0, size) for size in others[len(position) :]]
    ids = np.zeros(0, np.intp)
    for start in range(0, row_count, _BAND_ROWS):
        rows = slice(start, min(start + _BAND_ROWS, row_count))
        ids = np.union1d(ids, present(clipped[(*here, rows, slice(0, column_count))]))
    return len(ids)


def read_foreground(path: ImageLocation, planes: Planes) -> Foreground:
    """Read the foreground of an image: every pixel other than 0 is inside.

    A (Y, X) file is used for each plane of a stack. Raises ImageUnfit when it cannot be read or
    has another shape than the image.
    """
    pixels = read_label_image(path, planes.mask_axes)
    plane_shape = planes.mask_shape[-2:]
    if pixels.shape not in (plane_shape, planes.mask_shape):
        stack = "" if planes.mask_shape == plane_shape else f" or {planes.mask_shape}"
        raise ImageUnfit(
            f"{path}: foreground of shape {pixels.shape}, expected the image's {plane_shape}{stack}"
        )
    inside = pixels != 0
    return Foreground(inside, pixels_sha256(inside, planes.mask_axes[-inside.ndim :]))
