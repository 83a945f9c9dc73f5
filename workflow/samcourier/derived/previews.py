"""A plane and its mask -> a small picture with outlines, to look through a dataset."""

from __future__ import annotations

from collections.abc import Callable

import imagecodecs
import numpy as np
from skimage.segmentation import find_boundaries
from skimage.transform import downscale_local_mean

from ..masks import MaskPixels

LONGEST_EDGE_PX = 1024
#: These shares of the pixels are black and white: hot pixels do not darken the rest.
CONTRAST_PERCENTILES = (0.5, 99.8)
#: A large plane is looked at in bands of about so many pixels.
_BAND_PX = 8 << 20
_OUTLINE = (255, 214, 0)
#: One channel is grey, two are cyan and magenta, three red, green and blue.
_COLOURS = {
    1: np.array([[1, 1, 1]]),
    2: np.array([[0, 1, 1], [1, 0, 1]]),
    3: np.eye(3),
}


def preview(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a picture, (Y, X, 3) uint8, of at most :data:`LONGEST_EDGE_PX` pixels along an edge.

    ``mask`` is (Y, X), ``pixels`` the same or with channels before it, each with its own
    contrast; of more than three their mean is shown.
    """
    return preview_in_bands(lambda rows: pixels[..., rows, :], mask)


def preview_in_bands(pixels_of: Callable[[slice], np.ndarray], mask: MaskPixels) -> np.ndarray:
    """Return :func:`preview` of a plane that is never whole in memory.

    ``pixels_of`` gives some rows of it, and ``mask``, (Y, X), every so many of its pixels.
    """
    height, width = mask.shape
    step = -(-max(mask.shape) // LONGEST_EDGE_PX)
    # What does not fill a last block is left out: it would be mixed with black.
    whole = height - height % step or height
    band = max(_BAND_PX // width // step, 1) * step
    parts = [
        _shrunk(pixels_of(slice(top, min(top + band, whole))), step)
        for top in range(0, whole, band)
    ]
    layers = np.concatenate(parts, axis=-2)
    small = [_grey(layer) for layer in (layers[None] if layers.ndim == 2 else layers)]
    if len(small) not in _COLOURS:
        small = [np.mean(small, axis=0)]
    lit = np.tensordot(np.stack(small, axis=-1), _COLOURS[len(small)], axes=1).clip(0, 1)
    picture = (lit * 255).round().astype(np.uint8)
    rows, columns = picture.shape[:2]
    labels = np.asarray(mask[step // 2 :: step, step // 2 :: step])[:rows, :columns]
    picture[find_boundaries(labels, mode="inner")] = _OUTLINE
    return picture


def png(picture: np.ndarray) -> bytes:
    """Return the picture as a PNG file."""
    return bytes(imagecodecs.png_encode(picture))


def _shrunk(rows: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return rows.astype(np.float32)
    width = rows.shape[-1]
    factors = (*(1 for _ in rows.shape[:-2]), step, step)
    filled = rows[..., : width - width % step or width]
    return np.asarray(downscale_local_mean(filled, factors), np.float32)


def _grey(layer: np.ndarray) -> np.ndarray:
    """Return the layer between 0, black, and 1."""
    black, white = np.percentile(layer, CONTRAST_PERCENTILES)
    return np.asarray(np.clip((layer - black) / max(white - black, 1e-6), 0, 1))
