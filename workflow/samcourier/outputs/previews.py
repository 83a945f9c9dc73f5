"""Make a small picture of a plane with the outlines of its objects, to look through a dataset."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np

from ..masks.omezarr import MaskPixels

LONGEST_EDGE_PX = 1024
#: Percentiles that are shown as black and as white, so that hot pixels do not darken the rest.
CONTRAST_PERCENTILES = (0.5, 99.8)
#: A large plane is read in bands of about this many pixels.
_BAND_PX = 8 << 20
_OUTLINE = (255, 214, 0)
#: Chunk of the file with the pixels below the outlines, so that the outlines can be removed. The
#: case of its letters marks it as private; other programs ignore it (PNG specification, 5.4).
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


def preview(
    pixels: np.ndarray, mask: np.ndarray, sizes_um: Sequence[float | None] = (None, None)
) -> Preview:
    """Return a picture of at most :data:`LONGEST_EDGE_PX` pixels along an edge.

    If the pixel sizes along y and x are known and differ, the picture has square pixels.

    Args:
        pixels: (Y, X) or (C, Y, X). Each channel has its own contrast; of more than three
            channels the mean is shown.
        mask: Integer labels, (Y, X).
        sizes_um: Pixel size along y and x in micrometres, None if unknown.
    """
    return preview_in_bands(lambda rows: pixels[..., rows, :], mask, sizes_um)


def preview_in_bands(
    pixels_of: Callable[[slice], np.ndarray],
    mask: MaskPixels,
    sizes_um: Sequence[float | None] = (None, None),
) -> Preview:
    """Return :func:`preview` of a plane without having all of it in memory.

    ``pixels_of`` returns some rows of the plane; ``mask``, (Y, X), is read with a step.
    """
    # The report reads previews also where scikit-image is not installed; its import takes a second.
    from skimage.segmentation import find_boundaries

    height, width = mask.shape
    (step_y, step_x), stretch = _steps((height, width), sizes_um)
    # A last block that is not full is left out: it would be mixed with black.
    whole = height - height % step_y or height
    band = max(_BAND_PX // width // step_y, 1) * step_y
    parts = [
        _shrunk(pixels_of(slice(top, min(top + band, whole))), (step_y, step_x))
        for top in range(0, whole, band)
    ]
    layers = np.concatenate(parts, axis=-2)
    small = [_grey(layer) for layer in (layers[None] if layers.ndim == 2 else layers)]
    if len(small) not in _COLOURS:
        small = [np.mean(small, axis=0)]
    lit = np.tensordot(np.stack(small, axis=-1), _COLOURS[len(small)], axes=1).clip(0, 1)
    base = (lit * 255).round().astype(np.uint8)
    rows, columns = base.shape[:2]
    first_row, first_column = min(step_y // 2, height - 1), min(step_x // 2, width - 1)
    labels = np.asarray(mask[first_row::step_y, first_column::step_x])[:rows, :columns]
    at = np.ix_(
        *(_stretched(size, factor) for size, factor in zip(base.shape, stretch, strict=False))
    )
    return Preview(base[at], find_boundaries(labels[at], mode="inner"))


def _steps(
    shape: tuple[int, int], sizes_um: Sequence[float | None]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return how many pixels along y and x become one, and by which factor these are stretched."""
    y_um, x_um = sizes_um
    y_ratio, x_ratio = (1.0, 1.0) if y_um is None or x_um is None else (y_um, x_um)
    finer = min(y_ratio, x_ratio)
    ratios = y_ratio / finer, x_ratio / finer
    longest = max(size * ratio for size, ratio in zip(shape, ratios, strict=True))
    step = math.ceil(round(longest, 6) / LONGEST_EDGE_PX)
    step_y, step_x = (
        min(math.ceil(step / ratio), size) for ratio, size in zip(ratios, shape, strict=True)
    )
    return (step_y, step_x), (ratios[0] * step_y / step, ratios[1] * step_x / step)


def _stretched(size: int, factor: float) -> np.ndarray:
    """Return which of ``size`` rows or columns each one of the stretched picture shows."""
    shown = min(max(round(size * factor), 1), LONGEST_EDGE_PX)
    nearest = ((np.arange(shown) + 0.5) * size / shown).astype(np.intp)
    return np.asarray(np.minimum(nearest, size - 1))


def png(shown: Preview) -> bytes:
    """Return the picture as a PNG file that also holds the pixels below the outlines."""
    content = bytes(imagecodecs.png_encode(shown.picture))
    covered = np.packbits(shown.outlines).tobytes() + shown.base[shown.outlines].tobytes()
    packed = zlib.compress(covered)
    checksum = zlib.crc32(_COVERED + packed)
    chunk = struct.pack(">I", len(packed)) + _COVERED + packed + struct.pack(">I", checksum)
    end = content.rindex(b"IEND") - 4
    return content[:end] + chunk + content[end:]


def read_png(content: bytes) -> Preview:
    """Read a file by :func:`png`. Raises ValueError for any other file."""
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


def _shrunk(rows: np.ndarray, steps: tuple[int, int]) -> np.ndarray:
    """Return the mean of each block of ``steps`` pixels along y and x."""
    if steps == (1, 1):
        return rows.astype(np.float32)
    from skimage.transform import downscale_local_mean

    width, step_x = rows.shape[-1], steps[1]
    factors = (*(1 for _ in rows.shape[:-2]), *steps)
    filled = rows[..., : width - width % step_x or width]
    return np.asarray(downscale_local_mean(filled, factors), np.float32)


def _grey(layer: np.ndarray) -> np.ndarray:
    """Return the layer scaled to 0 (black) to 1 (white)."""
    black, white = np.percentile(layer, CONTRAST_PERCENTILES)
    return np.asarray(np.clip((layer - black) / max(white - black, 1e-6), 0, 1))
