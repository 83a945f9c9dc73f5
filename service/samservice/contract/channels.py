"""Convert an image of any number of channels to a model's input. No function changes its input.

Channels differ greatly in brightness, so each channel is first normalised between two percentiles
of its whole image (never of a tile: the tiles of one image would differ).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import MASK_AXES
from .errors import WrongAxes

#: Percentiles that are mapped to 0 and 1, as in CSBDeep and StarDist for fluorescence.
LOW_PERCENTILE = 1.0
HIGH_PERCENTILE = 99.8

#: (low, high) of each channel, see :func:`intensity_range`.
Ranges = Sequence[tuple[float, float]]


def is_constant(image: npt.NDArray[Any]) -> bool:
    """Return True when every value of ``image`` (any shape, non-empty) is the same.

    An engine checks the prepared image, where constant channels are zeros.
    """
    return bool(np.min(image) == np.max(image))


def intensity_range(channel: npt.NDArray[Any]) -> tuple[float, float]:
    """Return (low, high), the values of a channel that :func:`normalise` maps to 0 and 1.

    ``channel`` has any shape and real, finite values. (low, high) are its percentiles 1 and 99.8.
    When these are equal although the channel is not constant (a few bright pixels on a clean
    background), they are its minimum and maximum.
    """
    ranks = range_ranks(channel.size)
    partitioned = np.partition(channel.ravel(), ranks)
    return range_of([partitioned[rank] for rank in ranks], channel.size)


def range_ranks(size: int) -> list[int]:
    """Return the zero-based ranks, among ``size`` sorted pixels, that :func:`range_of` needs."""
    below = [math.floor(each) for each in _percentile_ranks(size)]
    return [0, size - 1, *below, *(min(each + 1, size - 1) for each in below)]


def range_of(pixels: Sequence[Any], size: int) -> tuple[float, float]:
    """Return :func:`intensity_range` from the pixels at :func:`range_ranks`, in their order."""
    minimum, maximum, *around = (float(pixel) for pixel in pixels)
    low, high = (
        around[number] + (around[number + 2] - around[number]) * (rank - math.floor(rank))
        for number, rank in enumerate(_percentile_ranks(size))
    )
    return (low, high) if high > low else (minimum, maximum)


def _percentile_ranks(size: int) -> list[float]:
    """Return the fractional ranks of the percentiles among ``size`` sorted pixels.

    The same as the default method of ``numpy.percentile``, linear.
    """
    return [(size - 1) * (each / 100) for each in (LOW_PERCENTILE, HIGH_PERCENTILE)]


def normalise(
    channel: npt.NDArray[Any], between: tuple[float, float] | None = None, *, clipped: bool = True
) -> npt.NDArray[np.float32]:
    """Scale one channel (any shape, real, finite) linearly to float32, clipped to [0, 1].

    ``between`` are the values that are mapped to 0 and 1, by default :func:`intensity_range` of the
    channel. A constant channel becomes zeros. Not ``clipped``, pixels outside of these values lie
    outside of [0, 1].
    """
    low, high = between or intensity_range(channel)
    if high <= low:
        return np.zeros(channel.shape, np.float32)
    # float32 holds 8 and 16 bit pixels exactly; wider ones may differ only beyond its 24 bits.
    working = np.float32 if channel.dtype.itemsize <= 2 else np.float64
    scaled: npt.NDArray[np.floating[Any]] = channel.astype(working)
    scaled -= working(low)
    scaled /= working(high - low)
    if clipped:
        np.clip(scaled, 0, 1, out=scaled)
    return scaled.astype(np.float32, copy=False)


def channels_of(image: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Return a view with a leading channel axis, (C, Y, X) or (C, Z, Y, X).

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    if axes not in MASK_AXES or image.ndim != len(axes):
        raise WrongAxes(
            f"axes {axes!r} with an image of {image.ndim} dimensions, "
            f"expected one of {', '.join(MASK_AXES)}, one letter a dimension"
        )
    return image if axes.startswith("C") else image[np.newaxis]


def _normalised(
    channels: npt.NDArray[Any], ranges: Ranges | None, *, clipped: bool = True
) -> Iterator[npt.NDArray[np.float32]]:
    for number, channel in enumerate(channels):
        yield normalise(channel, ranges[number] if ranges else None, clipped=clipped)


def _gray(
    channels: npt.NDArray[Any], ranges: Ranges | None, *, clipped: bool = True
) -> npt.NDArray[np.float32]:
    normalised = _normalised(channels, ranges, clipped=clipped)
    total = next(normalised)
    for channel in normalised:
        total += channel
    total /= np.float32(len(channels))
    return total


def _to_bytes(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    scaled: npt.NDArray[np.uint8] = np.rint(unit * np.float32(255)).astype(np.uint8)
    return scaled


def to_gray(
    image: npt.NDArray[Any], axes: str, ranges: Ranges | None = None, *, clipped: bool = True
) -> npt.NDArray[np.float32]:
    """Return one plane or volume, float32, clipped to [0, 1]: (Y, X) or (Z, Y, X).

    ``image`` is (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X), real and finite. One channel is
    normalised; several channels are normalised and averaged. ``ranges`` has (low, high) of each
    channel of the whole image when ``image`` is a tile. Not ``clipped``, the brightest 0.2 % of the
    pixels keep their differences: they may be all nuclei of a sparse field.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    return _gray(channels_of(image, axes), ranges, clipped=clipped)


def to_model_image(
    image: npt.NDArray[Any], axes: str, ranges: Ranges | None = None
) -> npt.NDArray[np.uint8]:
    """Return micro-sam's uint8 input; the two percentiles are mapped to 0 and 255.

    =================  ==============================================
    channels           planes, ``axes`` YX or CYX
    =================  ==============================================
    1, or no C         (Y, X)
    2                  (Y, X, 3), the third channel 0
    3                  (Y, X, 3), in the same order
    more               (Y, X), the mean of the normalised channels
    =================  ==============================================

    ``ranges`` are as in :func:`to_gray`. Volumes, ZYX and CZYX, are always gray (Z, Y, X):
    micro-sam accepts no colour in volumes.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    channels = channels_of(image, axes)
    if "Z" in axes or len(channels) not in (2, 3):
        return _to_bytes(_gray(channels, ranges))
    coloured = np.zeros((*channels.shape[1:], 3), np.uint8)
    for index, channel in enumerate(_normalised(channels, ranges)):
        coloured[..., index] = _to_bytes(channel)
    return coloured
