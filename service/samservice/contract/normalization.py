"""The intensity range that micro-sam's normalisation maps to black and white.

``robust`` ignores single hot pixels as percentiles do, but keeps the contrast of a sparse field,
whose objects cover less than the pixels above the upper percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .channels import HIGH_PERCENTILE, range_of, range_ranks

NORMALIZATIONS = ("robust", "minmax", "none")

#: Pixels above this many standard deviations of the background are objects.
_OBJECT_DEVIATIONS = 6.0
#: The 1st percentile of noise lies at most this many deviations below its median, 2.3 if Gaussian.
_NOISE_DEPTH = 3.0
#: The brightest eighth of the objects' pixels may become white.
_WHITE_PART = 8
#: Fewer pixels are hot pixels and no object.
_LEAST_OBJECT_PX = 16
#: The percentiles 16 and 50 of a Gaussian are one standard deviation apart.
_BACKGROUND_RANKS = (0.16, 0.5)


def robust_range(channel: npt.NDArray[Any]) -> tuple[float, float]:
    """Return (low, high), the values of a channel that become black and white.

    ``channel`` has any shape and real, finite values. (low, high) are its percentiles 1 and 99.8,
    unless the bulk of the pixels is the noise of a background and less than 1.6 % of them are
    brighter by more than 6 standard deviations: then the brightest eighth of these lie above high.
    An eighth of less than 16 pixels is not taken. When low and high are equal although the channel
    is not constant, they are its minimum and maximum.
    """
    ranks = robust_ranks(channel.size)
    partitioned = np.partition(channel.ravel(), sorted(set(ranks)))
    return robust_range_of([partitioned[rank] for rank in ranks], channel.size)


def robust_ranks(size: int) -> list[int]:
    """Return the zero-based ranks, among ``size`` sorted pixels, for :func:`robust_range_of`.

    The first two are those of minimum and maximum.
    """
    background = [int((size - 1) * part) for part in _BACKGROUND_RANKS]
    return [*range_ranks(size), *background, *(size - 1 - above for above in _bright_counts(size))]


def robust_range_of(pixels: Sequence[Any], size: int) -> tuple[float, float]:
    """Return :func:`robust_range` from the pixels at :func:`robust_ranks`, in their order."""
    usual_count = len(range_ranks(size))
    low, high = range_of(pixels[:usual_count], size)
    dark, median, *brightest = (float(pixel) for pixel in pixels[usual_count:])
    # The distance of two rounded percentiles is one step too small at most.
    step = 1.0 if isinstance(pixels[0], np.integer) else 0.0
    noise = median - dark + step
    if median - low > _NOISE_DEPTH * noise:
        return low, high
    least = median + _OBJECT_DEVIATIONS * noise
    first = next((at for at, value in enumerate(brightest) if value > least), 0)
    if first == 0:
        return low, high
    white = brightest[min(first + _WHITE_PART.bit_length() - 1, len(brightest) - 1)]
    return low, white


def _bright_counts(size: int) -> list[int]:
    """Return numbers of pixels, each half of the one before.

    The first is 1.6 % of all: an eighth of it is what lies above the upper percentile.
    """
    above = int(size * _WHITE_PART * (1 - HIGH_PERCENTILE / 100))
    counts = []
    while above > _LEAST_OBJECT_PX:
        counts.append(above)
        above //= 2
    return [*counts, _LEAST_OBJECT_PX] if counts else []


def minmax_bytes(channel: npt.NDArray[Any], between: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return a channel (any shape) as micro-sam's own normalisation makes it, uint8.

    ``between`` are minimum and maximum of the whole image of which ``channel`` may be a tile.

    Source: ``micro_sam.util._to_image`` (1.8), in the same order of the same float32 operations.
    """
    low = np.float32(between[0])
    scaled = channel.astype(np.float32)
    scaled -= low
    scaled /= (np.float32(between[1]) - low) + np.float32(1e-7)
    scaled *= np.float32(255)
    return scaled.astype(np.uint8)
