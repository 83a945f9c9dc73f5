"""A plane and its mask -> a small picture with outlines, to look through a dataset."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np

from ..masks.omezarr import MaskPixels

LONGEST_EDGE_PX = 1024
#: These shares of the pixels are black and white: hot pixels do not darken the rest.
CONTRAST_PERCENTILES = (0.5, 99.8)
#: A large plane is looked at in bands of about so many pixels.
_BAND_PX = 8 << 20
_OUTLINE = (255, 214, 0)
#: Where the file keeps what the outlines cover, so that they can be taken off. By its letters the
#: PNG standard knows a private chunk that other programs pass over.
_COVERED = b"scOL"
_PNG_SIGNATURE_BYTES = 8
#: One channel is grey, two are cyan and magenta, three red, green and blue.
_COLOURS = {
    1: np.array([[1, 1, 1]]),
    2: np.array([[0, 1, 1], [1, 0, 1]]),
    3: np.eye(3),
}


@dataclass(frozen=True)
class Preview:
    """``base`` is (Y, X, 3) uint8, ``outlines`` (Y, X) bool, True on the border of an object."""

    base: np.ndarray
    outlines: np.ndarray

    @property
    def picture(self) -> np.ndarray:
        """The base with the outlines on it."""
        drawn = self.base.copy()
        drawn[self.outlines] = _OUTLINE
        return drawn


def preview(pixels: np.ndarray, mask: np.ndarray) -> Preview:
    """Return a picture of at most :data:`LONGEST_EDGE_PX` pixels along an edge.

    ``mask`` is (Y, X), ``pixels`` the same or with channels before it, each with its own
    contrast; of more than three their mean is shown.
    """
    return preview_in_bands(lambda rows: pixels[..., rows, :], mask)


def preview_in_bands(pixels_of: Callable[[slice], np.ndarray], mask: MaskPixels) -> Preview:
    """Return :func:`preview` of a plane that is never whole in memory.

    ``pixels_of`` gives some rows of it, and ``mask``, (Y, X), every so many of its pixels.
    """
    # A report reads previews where scikit-image takes a second to load, or is not installed.
    from skimage.segmentation import find_boundaries

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
    base = (lit * 255).round().astype(np.uint8)
    rows, columns = base.shape[:2]
    first_row, first_column = min(step // 2, height - 1), min(step // 2, width - 1)
    labels = np.asarray(mask[first_row::step, first_column::step])[:rows, :columns]
    return Preview(base, find_boundaries(labels, mode="inner"))


def png(shown: Preview) -> bytes:
    """Return the picture as a PNG file that also holds what the outlines cover."""
    content = bytes(imagecodecs.png_encode(shown.picture))
    covered = np.packbits(shown.outlines).tobytes() + shown.base[shown.outlines].tobytes()
    packed = zlib.compress(covered)
    checksum = zlib.crc32(_COVERED + packed)
    chunk = struct.pack(">I", len(packed)) + _COVERED + packed + struct.pack(">I", checksum)
    end = content.rindex(b"IEND") - 4
    return content[:end] + chunk + content[end:]


def read_png(content: bytes) -> Preview:
    """Return what :func:`png` wrote. Raises ValueError for any other file."""
    packed = _chunk(content, _COVERED)
    try:
        base = np.array(imagecodecs.png_decode(content))
        covered = np.frombuffer(zlib.decompress(packed), np.uint8)
    except (zlib.error, imagecodecs.PngError) as error:
        raise ValueError(f"no preview: {error}") from error
    size = base.shape[0] * base.shape[1]
    bits, colours = np.split(covered, [-(-size // 8)])
    outlines = np.unpackbits(bits, count=size).astype(bool).reshape(base.shape[:2])
    base[outlines] = colours.reshape(-1, 3)
    return Preview(base, outlines)


def _chunk(content: bytes, name: bytes) -> bytes:
    at = _PNG_SIGNATURE_BYTES
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == name:
            return content[at + 8 : at + 8 + length]
        at += length + 12
    raise ValueError(f"no preview: a PNG without the chunk {name.decode()}")


def _shrunk(rows: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return rows.astype(np.float32)
    from skimage.transform import downscale_local_mean

    width = rows.shape[-1]
    factors = (*(1 for _ in rows.shape[:-2]), step, step)
    filled = rows[..., : width - width % step or width]
    return np.asarray(downscale_local_mean(filled, factors), np.float32)


def _grey(layer: np.ndarray) -> np.ndarray:
    """Return the layer between 0, black, and 1."""
    black, white = np.percentile(layer, CONTRAST_PERCENTILES)
    return np.asarray(np.clip((layer - black) / max(white - black, 1e-6), 0, 1))
