"""From 1, 2, 3 or more channels to what a model wants. Pure: no state, no input is changed.

Channels have very different brightness, so each is first stretched on its own between two
percentiles of its whole image (never of a tile: tiles of one image would not agree).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import MASK_AXES
from .errors import WrongAxes

#: Percentiles that become 0 and 1; the usual choice for fluorescence since CSBDeep and StarDist.
LOW_PERCENTILE = 1.0
HIGH_PERCENTILE = 99.8

#: (low, high) of each channel, see :func:`intensity_range`.
Ranges = Sequence[tuple[float, float]]


def is_constant(image: npt.NDArray[Any]) -> bool:
    """Return True when every value of ``image`` (any shape, non-empty) is the same.

    An engine asks this of the prepared image, where a constant channel has become zeros.
    """
    return bool(np.min(image) == np.max(image))


def intensity_range(channel: npt.NDArray[Any]) -> tuple[float, float]:
    """Return what becomes 0 and 1 of one channel (any shape, real, finite): (low, high).

    These are percentiles 1 and 99.8. Where they are equal although the channel is not constant (a
    few bright pixels on a clean background), minimum and maximum take their place.
    """
    ranks = range_ranks(channel.size)
    ordered = np.partition(channel.ravel(), ranks)
    return range_of([ordered[rank] for rank in ranks], channel.size)


def range_ranks(size: int) -> list[int]:
    """Return which of ``size`` sorted pixels :func:`range_of` needs, zero-based."""
    below = [math.floor(each) for each in _places(size)]
    return [0, size - 1, *below, *(min(each + 1, size - 1) for each in below)]


def range_of(pixels: Sequence[Any], size: int) -> tuple[float, float]:
    """Return :func:`intensity_range` from the pixels at :func:`range_ranks`, in their order."""
    least, most, *around = (float(pixel) for pixel in pixels)
    low, high = (
        around[number] + (around[number + 2] - around[number]) * (place - math.floor(place))
        for number, place in enumerate(_places(size))
    )
    return (low, high) if high > low else (least, most)


def _places(size: int) -> list[float]:
    """Return where the percentiles lie among ``size`` sorted pixels, as numpy's default does."""
    return [(size - 1) * (each / 100) for each in (LOW_PERCENTILE, HIGH_PERCENTILE)]


def normalise(
    channel: npt.NDArray[Any], between: tuple[float, float] | None = None
) -> npt.NDArray[np.float32]:
    """Stretch one channel (any shape, real, finite) to float32 in [0, 1], clipped.

    ``between`` are the values that become 0 and 1; without it, :func:`intensity_range` of the
    channel. A constant channel becomes zeros.
    """
    low, high = between or intensity_range(channel)
    if high <= low:
        return np.zeros(channel.shape, np.float32)
    # float32 holds 8 and 16 bit pixels exactly; wider ones may differ only beyond its 24 bits.
    working = np.float32 if channel.dtype.itemsize <= 2 else np.float64
    stretched: npt.NDArray[np.floating[Any]] = channel.astype(working)
    stretched -= working(low)
    stretched /= working(high - low)
    return np.clip(stretched, 0, 1, out=stretched).astype(np.float32, copy=False)


def _channels(image: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Return a view with a leading channel axis, (C, Y, X) or (C, Z, Y, X)."""
    if axes not in MASK_AXES or image.ndim != len(axes):
        raise WrongAxes(
            f"axes {axes!r} with an image of {image.ndim} dimensions, "
            f"expected one of {', '.join(MASK_AXES)}, one letter a dimension"
        )
    return image if axes.startswith("C") else image[np.newaxis]


def _normalised(
    channels: npt.NDArray[Any], ranges: Ranges | None
) -> Iterator[npt.NDArray[np.float32]]:
    for number, channel in enumerate(channels):
        yield normalise(channel, ranges[number] if ranges else None)


def _gray(channels: npt.NDArray[Any], ranges: Ranges | None) -> npt.NDArray[np.float32]:
    normalised = _normalised(channels, ranges)
    total = next(normalised)
    for channel in normalised:
        total += channel
    total /= np.float32(len(channels))
    return total


def _to_bytes(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    scaled: npt.NDArray[np.uint8] = np.rint(unit * np.float32(255)).astype(np.uint8)
    return scaled


def to_gray(
    image: npt.NDArray[Any], axes: str, ranges: Ranges | None = None
) -> npt.NDArray[np.float32]:
    """Return one plane or volume, float32 in [0, 1]: (Y, X) or (Z, Y, X).

    ``image`` is (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X), real and finite. One channel is
    normalised; of several, the mean of the normalised channels is taken. ``ranges`` are those of
    the channels of which ``image`` is a part.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    return _gray(_channels(image, axes), ranges)


def to_model_image(
    image: npt.NDArray[Any], axes: str, ranges: Ranges | None = None
) -> npt.NDArray[np.uint8]:
    """Return the uint8 image that micro-sam takes, 0 and 255 at the two percentiles.

    =================  ==============================================
    channels           planes, ``axes`` YX or CYX
    =================  ==============================================
    1, or no C         (Y, X)
    2                  (Y, X, 3), the third channel 0
    3                  (Y, X, 3), in their order
    more               (Y, X), the mean of the normalised channels
    =================  ==============================================

    ``ranges`` are as in :func:`to_gray`. Volumes, ZYX and CZYX, are always gray (Z, Y, X):
    micro-sam takes no colour there.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    channels = _channels(image, axes)
    if "Z" in axes or len(channels) not in (2, 3):
        return _to_bytes(_gray(channels, ranges))
    coloured = np.zeros((*channels.shape[1:], 3), np.uint8)
    for index, channel in enumerate(_normalised(channels, ranges)):
        coloured[..., index] = _to_bytes(channel)
    return coloured
