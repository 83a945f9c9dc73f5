"""Background, noise and threshold of an image, for the watershed engine.

Each is computed from the whole image or, with a bitwise equal result, from bands of it: every step
is local within :func:`margin_px` or a sum over pixels.
"""
# scipy has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .image_statistics import Levels

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

#: Levels lie in [-1, 1], so a bin is 1/8 of an intensity step of 16 bit pixels.
_LEVEL_BINS = 1 << 18
_TRUNCATE = 3


def margin_px(sigma_px: float) -> int:
    """Return the radius of the smoothing kernel in pixels."""
    return int(_TRUNCATE * sigma_px + 0.5)


def smooth(gray: Floats, sigma_px: float) -> Floats:
    """Return the image (any shape, float32) after a Gaussian filter of ``sigma_px``."""
    return np.asarray(ndimage.gaussian_filter(gray, sigma_px, truncate=_TRUNCATE))


def square_count(size_px: int, block_px: int) -> int:
    """Return the number of squares along one axis."""
    return max(1, round(size_px / block_px))


def grid_edges(size_px: int, block_px: int) -> list[int]:
    """Return the borders of the squares along one axis, in pixels.

    The sides differ by one pixel at most and are about ``block_px``.
    """
    count = square_count(size_px, block_px)
    least, longer = divmod(size_px, count)
    return [number * least + min(number, longer) for number in range(count + 1)]


def quartiles(smoothed: Floats, row_edges: Sequence[int], column_edges: Sequence[int]) -> Floats:
    """Return the lower quartile of each square of (Y, X) or (Z, Y, X) as (rows, columns)."""
    return np.array(
        [
            [
                np.percentile(smoothed[..., top:bottom:2, left:right:2], 25)
                for left, right in itertools.pairwise(column_edges)
            ]
            for top, bottom in itertools.pairwise(row_edges)
        ],
        np.float32,
    )


def background_grid(quartiles: Floats) -> Floats:
    """Return the background at the squares' centres (rows, columns).

    ``quartiles`` is (rows, columns), see :func:`quartiles`. The smoothing limits the error of a
    square full of cells, whose quartile lies above the background.
    """
    return np.asarray(ndimage.gaussian_filter(quartiles, 0.7, mode="nearest"))


def background(
    grid: Floats, image_shape: Sequence[int], origin: Sequence[int], shape: Sequence[int]
) -> Floats:
    """Return the background (Y, X), float32, of a tile of ``shape`` at ``origin`` in an image.

    ``grid`` is the image's :func:`background_grid`. It is interpolated linearly between the
    squares' centres and constant beyond the outermost centres. All lengths are (Y, X) in pixels.
    """
    field = grid
    for axis in (0, 1):
        count = grid.shape[axis]
        position = np.arange(origin[axis], origin[axis] + shape[axis]) + 0.5
        position = np.clip(position * (count / image_shape[axis]) - 0.5, 0, count - 1)
        low = np.minimum(position.astype(np.intp), max(count - 2, 0))
        weight = np.expand_dims((position - low).astype(np.float32), 1 - axis)
        high = np.minimum(low + 1, count - 1)
        field = field.take(low, axis) * (1 - weight) + field.take(high, axis) * weight
    return field


def level_histogram(level: Floats) -> Counts:
    """Return the histogram of the levels; the sum of the parts' histograms is the image's."""
    bins = ((level.ravel() + 1) * np.float32(_LEVEL_BINS / 2)).astype(np.int32)
    return np.bincount(np.clip(bins, 0, _LEVEL_BINS - 1), minlength=_LEVEL_BINS)


def levels_of(histogram: Counts) -> Levels:
    """Return Otsu's threshold and the mean and noise of the background.

    The background is modelled as a Gaussian that has the image's quantiles 2.5 % and 25 %; these
    lie 1.960 and 0.674 standard deviations below its mean. Objects that cover half of the image
    change the result by a third.
    """
    edges = np.linspace(-1, 1, _LEVEL_BINS + 1)
    total = int(histogram.sum())
    low, quartile = np.interp(
        (0.025 * total, 0.25 * total), np.concatenate([[0], np.cumsum(histogram)]), edges
    )
    deviation = float(quartile - low) / (1.960 - 0.674)
    floor = float(quartile) + 0.674 * deviation
    return Levels(_otsu(histogram, (edges[:-1] + edges[1:]) / 2), floor, deviation)


def _otsu(histogram: Counts, centers: npt.NDArray[np.float64]) -> float:
    """Return Otsu's threshold, which maximises the variance between the two classes.

    Source: Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66. scikit-image's implementation
    counts in float32, which is too coarse for the number of pixels of a slide.
    """
    fraction = np.cumsum(histogram) / histogram.sum()
    moment = np.cumsum(histogram * centers) / histogram.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (moment[-1] * fraction - moment) ** 2 / (fraction * (1 - fraction))
    return float(centers[np.argmax(np.nan_to_num(variance, nan=0.0, posinf=0.0))])
