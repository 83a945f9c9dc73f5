"""From 1, 2, 3 or more channels to what a model wants. Pure: no state, no input is changed.

Channels have very different brightness, so each is first stretched on its own between two
percentiles of its whole image (never of a tile: tiles of one image would not agree).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .axes import MASK_AXES
from .errors import WrongAxes

#: Percentiles that become 0 and 1; the usual choice for fluorescence since CSBDeep and StarDist.
LOW_PERCENTILE = 1.0
HIGH_PERCENTILE = 99.8


def is_constant(image: npt.NDArray[Any]) -> bool:
    """Return True when every value of ``image`` (any shape, non-empty) is the same.

    An engine asks this of the prepared image, where a constant channel has become zeros.
    """
    return bool(np.min(image) == np.max(image))


def normalise(channel: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Stretch one channel (any shape, real, finite) to float32 in [0, 1], clipped.

    Percentiles 1 and 99.8 become 0 and 1. Where they are equal although the channel is not
    constant (a few bright pixels on a clean background), minimum and maximum take their place.
    A constant channel becomes zeros.
    """
    low, high = (float(v) for v in np.percentile(channel, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    if high <= low:
        low, high = float(np.min(channel)), float(np.max(channel))
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


def _gray(channels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    total = normalise(channels[0])
    for channel in channels[1:]:
        total += normalise(channel)
    total /= np.float32(len(channels))
    return total


def _to_bytes(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    scaled: npt.NDArray[np.uint8] = np.rint(unit * np.float32(255)).astype(np.uint8)
    return scaled


def to_gray(image: npt.NDArray[Any], axes: str) -> npt.NDArray[np.float32]:
    """Return one plane or volume, float32 in [0, 1]: (Y, X) or (Z, Y, X).

    ``image`` is (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X), real and finite. One channel is
    normalised; of several, the mean of the normalised channels is taken.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    return _gray(_channels(image, axes))


def to_model_image(image: npt.NDArray[Any], axes: str) -> npt.NDArray[np.uint8]:
    """Return the uint8 image that micro-sam takes, 0 and 255 at the two percentiles.

    =================  ==============================================
    channels           planes, ``axes`` YX or CYX
    =================  ==============================================
    1, or no C         (Y, X)
    2                  (Y, X, 3), the third channel 0
    3                  (Y, X, 3), in their order
    more               (Y, X), the mean of the normalised channels
    =================  ==============================================

    Volumes, ZYX and CZYX, are always gray (Z, Y, X): micro-sam takes no colour there.

    Raises :class:`WrongAxes` when ``axes`` is unknown or does not fit the dimensions.
    """
    channels = _channels(image, axes)
    if "Z" in axes or len(channels) not in (2, 3):
        return _to_bytes(_gray(channels))
    coloured = np.zeros((*channels.shape[1:], 3), np.uint8)
    for index, channel in enumerate(channels):
        coloured[..., index] = _to_bytes(normalise(channel))
    return coloured
