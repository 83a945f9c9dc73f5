"""A plane and its mask -> a small picture with outlines, to look through a dataset."""

from __future__ import annotations

import imagecodecs
import numpy as np
from skimage.segmentation import find_boundaries
from skimage.transform import downscale_local_mean

LONGEST_EDGE_PX = 1024
#: These shares of the pixels are black and white: hot pixels do not darken the rest.
CONTRAST_PERCENTILES = (0.5, 99.8)
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
    step = -(-max(mask.shape) // LONGEST_EDGE_PX)
    layers = pixels[None] if pixels.ndim == 2 else pixels
    small = [_grey(_shrunk(layer, step)) for layer in layers]
    if len(small) not in _COLOURS:
        small = [np.mean(small, axis=0)]
    lit = np.tensordot(np.stack(small, axis=-1), _COLOURS[len(small)], axes=1).clip(0, 1)
    picture = (lit * 255).round().astype(np.uint8)
    rows, columns = picture.shape[:2]
    labels = mask[step // 2 :: step, step // 2 :: step][:rows, :columns]
    picture[find_boundaries(labels, mode="inner")] = _OUTLINE
    return picture


def png(picture: np.ndarray) -> bytes:
    """Return the picture as a PNG file."""
    return bytes(imagecodecs.png_encode(picture))


def _shrunk(layer: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return layer.astype(np.float32)
    # What does not fill a last block is left out: it would be mixed with black.
    rows, columns = (size - size % step or size for size in layer.shape)
    return np.asarray(downscale_local_mean(layer[:rows, :columns], (step, step)), np.float32)


def _grey(layer: np.ndarray) -> np.ndarray:
    """Return the layer between 0, black, and 1."""
    black, white = np.percentile(layer, CONTRAST_PERCENTILES)
    return np.asarray(np.clip((layer - black) / max(white - black, 1e-6), 0, 1))
