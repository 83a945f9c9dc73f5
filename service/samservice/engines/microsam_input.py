"""Prepare an image for micro-sam's encoder, and find the planes in which there is nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import MASK_AXES
from ..contract.channels import channels_of, is_constant, to_model_image
from ..contract.errors import WrongParameter
from ..contract.image_statistics import ImageStatistics
from ..contract.normalization import minmax_bytes, robust_range
from . import microsam_api

Bytes = npt.NDArray[np.uint8]
Ranges = tuple[tuple[float, float], ...]

#: A plane's content differs from its median by more than the noise of its pixels explains, 6
#: standard deviations, and by more than 4 of 255 steps of the image's range.
_CONTENT_DEVIATIONS = 6.0
_CONTENT_STEPS = 4.0
#: Side of the smallest squares that are compared, pixels; their medians ignore hot pixels.
_SQUARE_PX = 4
#: The standard deviation of the median of many values, in those of their mean.
_MEDIAN_DEVIATION = 1.2533


@dataclass(frozen=True)
class EncoderInput:
    """An image as micro-sam receives it.

    Attributes:
        pixels: (Y, X), (Y, X, C) or (Z, Y, X).
        has_content: For each plane, whether an object can be in it.
        is_final: The pixels are bytes that the encoder gets as they are. Otherwise micro-sam
            stretches each plane, or each of its own tiles, between minimum and maximum.
    """

    pixels: npt.NDArray[Any]
    has_content: npt.NDArray[np.bool_]
    is_final: bool


def encoder_input(
    image: npt.NDArray[Any],
    axes: str,
    normalization: str,
    statistics: ImageStatistics | None = None,
) -> EncoderInput:
    """Return the model's input of (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X).

    ``statistics`` are those of the whole plane when ``image`` is a tile. A plane has content unless
    it is constant or, with ``robust``, shows nothing but noise.

    Raises :class:`WrongAxes`; :class:`WrongParameter` for pixels that ``none`` does not accept.
    """
    channels = channels_of(image, axes)
    if normalization == "minmax":
        return _minmax(channels, axes, statistics.full_range if statistics else ())
    if normalization == "none":
        pixels = _unchanged(channels, axes)
        return _final(pixels, axes, lambda plane: not is_constant(plane))
    ranges = statistics.robust_range if statistics else tuple(map(robust_range, channels))
    return _final(to_model_image(image, axes, ranges), axes, has_content)


def _final(pixels: Bytes, axes: str, shows: Callable[[Bytes], bool]) -> EncoderInput:
    if "Z" in axes:
        # micro-sam stretches each plane: a deep one is dimmer than the volume's brightest.
        return EncoderInput(pixels, np.array([shows(plane) for plane in pixels]), is_final=False)
    colours = [pixels] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return EncoderInput(pixels, np.array([any(map(shows, colours))]), is_final=True)


def _minmax(channels: npt.NDArray[Any], axes: str, full_range: Ranges) -> EncoderInput:
    """Leave the normalisation to micro-sam, which uses the first three channels.

    It knows neither the whole image of a tile nor volumes with channels; for these, each channel
    is scaled by micro-sam's formula, and a volume's channels are averaged.
    """
    if "Z" in axes:
        volume = channels[0]
        if len(channels) > 1:
            ranges = [(channel.min(), channel.max()) for channel in channels]
            scaled = map(minmax_bytes, channels, ranges)
            volume = np.mean(list(scaled), axis=0, dtype=np.float32)
        varied = np.array([not is_constant(plane) for plane in volume])
        return EncoderInput(volume, varied, is_final=False)
    used = channels[:3]
    if full_range:
        used = np.stack([minmax_bytes(*pair) for pair in zip(used, full_range, strict=False)])
        if len(used) == 2:
            used = np.concatenate([used, np.zeros_like(used[:1])])
    varied = np.array([not all(map(is_constant, used))])
    pixels = used[0] if len(used) == 1 else np.moveaxis(used, 0, -1)
    return EncoderInput(pixels, varied, is_final=bool(full_range))


def _unchanged(channels: npt.NDArray[Any], axes: str) -> Bytes:
    low, high = channels.min(), channels.max()
    whole = channels.dtype.kind in "bui" or bool((channels == np.rint(channels)).all())
    if low < 0 or high > 255 or not whole:
        raise WrongParameter(
            f"normalization none with {channels.dtype} pixels from {low:g} to {high:g}, expected "
            "whole numbers from 0 to 255"
        )
    unit = (0.0, 255.0)
    return to_model_image(channels, "C" + MASK_AXES[axes], [unit] * len(channels))


def has_content(plane: Bytes) -> bool:
    """Return whether a plane (Y, X) shows more than a constant background with white noise.

    The medians of squares of 4 px, and the means of these in squares of 8, 16, ... px, are compared
    with their median; the noise is estimated from the plane's second differences. A plane of fewer
    than four squares has content unless it is constant.

    Source of the noise: Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300-302.
    """
    if is_constant(plane):
        return False
    height, width = plane.shape
    side = min(_SQUARE_PX, height, width)
    whole = plane[: height // side * side, : width // side * side]
    squares = whole.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    level = np.median(squares.reshape(*squares.shape[:2], -1), axis=-1).astype(np.float32)
    if level.size < 4:
        return True
    deviation = _MEDIAN_DEVIATION * _pixel_noise(plane) / side
    while True:
        least = max(_CONTENT_DEVIATIONS * deviation, _CONTENT_STEPS)
        if np.abs(level - np.median(level)).max() > least:
            return True
        if min(level.shape) < 4:
            return False
        rows, columns = (size // 2 * 2 for size in level.shape)
        level = level[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        deviation /= 2


def _pixel_noise(plane: Bytes) -> float:
    if min(plane.shape) < 3:
        return 0.0
    pixels = plane.astype(np.int16)
    rows = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    differences = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.abs(differences).mean()) * math.sqrt(math.pi / 2) / 6


def bytes_as_they_are(is_final: bool) -> AbstractContextManager[None]:
    """Let micro-sam give final bytes to its encoder without stretching them.

    micro-sam has no option for it: ``micro_sam.util._to_image`` (1.8) stretches every plane and
    tile, so that an empty tile becomes noise at full contrast.
    """
    return microsam_api.to_image_replaced(coloured) if is_final else nullcontext()


def coloured(pixels: Bytes) -> Bytes:
    """Return (Y, X) or (Y, X, 3) as (Y, X, 3)."""
    return np.repeat(pixels[..., np.newaxis], 3, axis=2) if pixels.ndim == 2 else np.array(pixels)
