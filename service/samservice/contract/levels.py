"""Where the model-free engine looks for objects: background, noise and threshold of an image.

Each is computed from the whole image or, with the same result to the last bit, from its bands:
every step is local within :func:`margin_px` or a sum over pixels.
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

#: Levels lie in [-1, 1]: a bin is an eighth of a step of 16 bit pixels.
_LEVEL_BINS = 1 << 18
_TRUNCATE = 3


def margin_px(sigma_px: float) -> int:
    """Return how far the smoothing of a pixel reaches."""
    return int(_TRUNCATE * sigma_px + 0.5)


def smooth(gray: Floats, sigma_px: float) -> Floats:
    """Return the image without its finest noise."""
    return np.asarray(ndimage.gaussian_filter(gray, sigma_px, truncate=_TRUNCATE))


def square_count(size_px: int, block_px: int) -> int:
    """Return how many squares lie along one axis."""
    return max(1, round(size_px / block_px))


def grid_edges(size_px: int, block_px: int) -> list[int]:
    """Return the borders of the squares along one axis: equal to a pixel, about ``block_px``."""
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

    A square full of cells would lift the background under them; its neighbours temper that.
    """
    return np.asarray(ndimage.gaussian_filter(quartiles, 0.7, mode="nearest"))


def background(
    grid: Floats, image_shape: Sequence[int], origin: Sequence[int], shape: Sequence[int]
) -> Floats:
    """Return the background (Y, X) of the part of an image that begins at ``origin``.

    Between the squares' centres it is linear, and beyond the outermost constant.
    """
    field = grid
    for axis in (0, 1):
        count = grid.shape[axis]
        at = np.arange(origin[axis], origin[axis] + shape[axis]) + 0.5
        at = np.clip(at * (count / image_shape[axis]) - 0.5, 0, count - 1)
        low = np.minimum(at.astype(np.intp), max(count - 2, 0))
        share = np.expand_dims((at - low).astype(np.float32), 1 - axis)
        high = np.minimum(low + 1, count - 1)
        field = field.take(low, axis) * (1 - share) + field.take(high, axis) * share
    return field


def level_histogram(level: Floats) -> Counts:
    """Count the levels of pixels; histograms of parts of an image add up to the image's."""
    bins = ((level.ravel() + 1) * np.float32(_LEVEL_BINS / 2)).astype(np.int32)
    return np.bincount(np.clip(bins, 0, _LEVEL_BINS - 1), minlength=_LEVEL_BINS)


def levels_of(histogram: Counts) -> Levels:
    """Return the threshold between background and objects, and the background's noise.

    The noise is that of a Gaussian with the darkest quarter's quantiles: 2.5 % and 25 % of it lie
    1.960 and 0.674 standard deviations below its mean. Objects covering half of the image change
    this by a third.
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
    """Return Otsu's threshold: the split of largest variance between the classes.

    scikit-image's counts in float32, which is too coarse for the pixels of a slide.
    """
    share = np.cumsum(histogram) / histogram.sum()
    moment = np.cumsum(histogram * centers) / histogram.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * share - moment) ** 2 / (share * (1 - share))
    return float(centers[np.argmax(np.nan_to_num(between, nan=0.0, posinf=0.0))])
