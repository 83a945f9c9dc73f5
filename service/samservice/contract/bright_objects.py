"""Diameter, background, noise and threshold of an image, found from the image itself.

Each is computed from the whole image or, with a bitwise equal result, from bands of it: every step
is local within :func:`margin_px`, belongs to one square, or is a sum of counts.
"""
# scipy has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .image_statistics import BrightObjects

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

#: Side of the squares in which the diameter is estimated, pixels.
SCALE_SQUARE_PX = 1024
#: Diameter where the image shows none, such as one of a few pixels.
USUAL_DIAMETER_PX = 24.0

_TRUNCATE = 3
_STEP = math.sqrt(2)
#: The widest filter that may be a nucleus is at most this part of the square's shorter side.
_WIDEST = 1 / 8
#: The energy is divided by this power of sigma: clusters and haze add to it at the wider filters.
_ENERGY_POWER = 0.75
#: Diameter of a nucleus in standard deviations of the filter with the most energy. Measured on real
#: and generated nuclei, where nine of ten diameters come out within 15 % (docs/watershed.md).
_DIAMETER_IN_SIGMAS = 3.95
#: Least energy of a maximum that counts, as a part of the highest maximum.
_LOWEST_MAXIMUM = 0.25
#: The background lies this many standard deviations above its lower quartile.
_QUARTILE_DEPTH = 0.674
#: Least noise, as a part of the image's intensity range: an 8 bit image has steps of 0.004.
LEAST_NOISE = 0.001
#: A float32 without its 13 lowest bits has 10 bits after the leading one: bins of 0.1 %.
_DROPPED_BITS = 13
#: Brighter foreground counts as much as its 99th percentile, so that debris sets no threshold.
_BRIGHTEST = 0.99


class Scale(NamedTuple):
    """Lengths in pixels, given as parameters or following from the diameter of a nucleus.

    Attributes:
        diameter_px: Typical diameter of a nucleus.
        sigma_px: Gaussian smoothing of the image.
        square_px: Side of the squares in which background and noise are estimated.
        window_px: Side of the window of the local threshold, odd.
    """

    diameter_px: float
    sigma_px: float
    square_px: int
    window_px: int


def scale_of(diameter_px: float, parameters: Mapping[str, Any]) -> Scale:
    """Return the lengths for a diameter; a length among the ``parameters`` takes precedence."""
    square_px = min(max(round(4 * diameter_px), 32), 4096)
    return Scale(
        diameter_px,
        float(parameters["sigma_px"]) or max(1.0, diameter_px / 25),
        int(parameters["background_px"]) or square_px,
        (int(parameters["local_window_px"]) or int(1.5 * diameter_px)) | 1,
    )


def margin_px(sigma_px: float) -> int:
    """Return the radius of the smoothing kernel in pixels."""
    return int(_TRUNCATE * sigma_px + 0.5)


def smooth(gray: Floats, sigma_px: float, z_aspect: float = 1.0) -> Floats:
    """Return the image, (Y, X) or (Z, Y, X) float32, after a Gaussian filter of ``sigma_px``.

    ``z_aspect`` is the distance of two planes in pixels.
    """
    sigmas = [sigma_px / z_aspect] * (gray.ndim - 2) + [sigma_px] * 2
    return np.asarray(ndimage.gaussian_filter(gray, sigmas, truncate=_TRUNCATE))


def square_count(size_px: int, square_px: int) -> int:
    """Return the number of squares along one axis."""
    return max(1, round(size_px / square_px))


def grid_edges(size_px: int, square_px: int) -> list[int]:
    """Return the borders of the squares along one axis, in pixels.

    The sides differ by one pixel at most and are about ``square_px``.
    """
    count = square_count(size_px, square_px)
    least, longer = divmod(size_px, count)
    return [number * least + min(number, longer) for number in range(count + 1)]


def _squares(image: Floats, edges: Sequence[Sequence[int]]) -> Iterator[Floats]:
    for top, bottom in itertools.pairwise(edges[0]):
        for left, right in itertools.pairwise(edges[1]):
            yield image[..., top:bottom, left:right]


def scale_spectra(gray: Floats, row_edges: Sequence[int]) -> list[dict[float, float]]:
    """Return, for each square of about 1024 px, the energy of each filter's response.

    ``gray`` (Y, X) has the image's whole width, ``row_edges`` are the borders of its squares.
    A filter is a difference of two Gaussians; the keys are its sigma in pixels, sqrt(2) apart. It
    responds to bright spots of its own size, not to a constant background or a linear slope. The
    energy is the sum of the squared positive responses, without that of the pixels' white noise.

    Source of the selection of a scale: Lindeberg, Int. J. Comput. Vis. 30 (1998) 79-116.
    """
    edges = row_edges, grid_edges(gray.shape[1], SCALE_SQUARE_PX)
    return [_spectrum(square) for square in _squares(gray, edges)]


def _spectrum(square: Floats) -> dict[float, float]:
    noise = _pixel_noise(square)
    # An opening removes hot pixels; a plane removes a slope, which has an edge at the border.
    level = _halved(_without_slope(_opened(square)))
    # One filter wider than a nucleus may be shows where the energy falls again.
    widest = min(square.shape) * _WIDEST * _STEP
    energies, factor, sigmas = {}, 2, [1.0, _STEP, 2.0, 2 * _STEP]
    while fitting := [sigma for sigma in sigmas if sigma * factor <= widest]:
        narrow = ndimage.gaussian_filter(level, fitting[0], truncate=_TRUNCATE)
        for sigma in fitting:
            wide = ndimage.gaussian_filter(level, sigma * _STEP, truncate=_TRUNCATE)
            response = np.maximum(narrow - wide, 0)
            # The variance of white noise after a difference of Gaussians of sigma and sqrt(2) sigma
            noise_energy = (noise / factor) ** 2 / (24 * math.pi * sigma**2) / 2
            energy = float(np.mean(response * response, dtype=np.float64)) - noise_energy
            energies[sigma * factor] = max(energy, 0.0) * square.size
            narrow = wide
        level, factor, sigmas = _halved(level), 2 * factor, [2.0, 2 * _STEP]
    return energies


def _opened(square: Floats) -> Floats:
    """Return the grey opening of (Y, X) by two by two pixels that all lie inside of it."""
    if min(square.shape) < 2:
        return square
    rows = np.minimum(square[:-1], square[1:])
    eroded = np.minimum(rows[:, :-1], rows[:, 1:])
    opened = np.full_like(square, -np.inf)
    for part in (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:]):
        np.maximum(opened[part], eroded, out=opened[part])
    return opened


def _pixel_noise(square: Floats) -> float:
    """Return the standard deviation of the pixels' noise, from differences of neighbours."""
    if min(square.shape) < 2:
        return 0.0
    differences = square[1:, 1:] - square[:-1, 1:] - square[1:, :-1] + square[:-1, :-1]
    return float(np.median(np.abs(differences))) / 0.6745 / 2


def _without_slope(level: Floats) -> Floats:
    """Return a plane minus the slope that a least squares fit finds in it."""
    for axis in (0, 1):
        position = np.linspace(-1, 1, level.shape[axis])
        if level.shape[axis] > 1:
            profile = level.mean(axis=1 - axis, dtype=np.float64)
            slope = float(profile @ position / (position @ position))
            level = level - np.expand_dims((slope * position).astype(np.float32), 1 - axis)
    return level


def _halved(level: Floats) -> Floats:
    """Return the mean of each two by two pixels."""
    height, width = (size // 2 * 2 for size in level.shape)
    rows = level[0:height:2, :width] + level[1:height:2, :width]
    return (rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25)


def diameter_of(spectra: Iterable[Mapping[float, float]]) -> float:
    """Return the typical diameter of a nucleus in pixels, from the spectra of all squares.

    It follows from the maximum of the energy at the smallest filter, of those that are at least a
    quarter of the highest: haze and illumination are wider. Energy that grows up to the widest
    filter is theirs as well, unless there is no maximum before it.
    """
    total: dict[float, float] = {}
    for spectrum in spectra:
        for sigma, energy in spectrum.items():
            total[sigma] = total.get(sigma, 0.0) + energy
    sigmas = sorted(total)
    energies = [total[sigma] / sigma**_ENERGY_POWER for sigma in sigmas]
    if not any(energies):
        return USUAL_DIAMETER_PX
    around = [-math.inf, *energies]
    maxima = [at for at in range(len(sigmas) - 1) if around[at] < energies[at] > energies[at + 1]]
    highest = max((energies[at] for at in maxima), default=0.0)
    best = next((at for at in maxima if energies[at] >= _LOWEST_MAXIMUM * highest), len(sigmas) - 1)
    shift = 0.0
    if 0 < best < len(sigmas) - 1:
        # The vertex of the parabola through the highest energy and its neighbours
        below, peak, above = energies[best - 1 : best + 2]
        shift = 0.5 * (below - above) / (below - 2 * peak + above)
    return float(_DIAMETER_IN_SIGMAS * sigmas[best] * _STEP**shift)


def grids(
    smoothed: Floats, scale: Scale, row_edges: Sequence[int], column_edges: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return lower quartile and noise of each square of (Y, X) or (Z, Y, X), as (rows, columns).

    The noise is a standard deviation, from differences of pixels that the smoothing left
    independent; background and objects that are larger than that distance have no part in it.
    """
    lag = max(2, round(3 * scale.sigma_px))
    pairs = [
        (np.percentile(square[..., ::2, ::2], 25), _noise(square, lag))
        for square in _squares(smoothed, (row_edges, column_edges))
    ]
    shape = (2, len(row_edges) - 1, len(column_edges) - 1)
    quartiles, noise = np.array(pairs, np.float32).T.reshape(shape)
    return quartiles, np.maximum(noise, np.float32(LEAST_NOISE))


def _noise(square: Floats, lag: int) -> float:
    axis = -2 if square.shape[-2] > lag else -1
    along = np.moveaxis(square, axis, 0)
    differences = np.abs(along[lag:] - along[:-lag])[::2]
    return float(np.median(differences)) / 0.6745 / math.sqrt(2) if differences.size else 0.0


def background_grid(quartiles: Floats, noise: Floats) -> Floats:
    """Return the background at the squares' centres (rows, columns), see :func:`grids`.

    The smoothing limits the error of a square full of cells, whose quartile lies above the
    background. It continues the background linearly beyond the image.
    """
    grid = quartiles + np.float32(_QUARTILE_DEPTH) * noise
    for axis in (0, 1):
        if grid.shape[axis] > 1:
            first, second, before, last = (grid.take([at], axis) for at in (0, 1, -2, -1))
            grid = np.concatenate([2 * first - second, grid, 2 * last - before], axis)
        else:
            grid = np.repeat(grid, 3, axis)
    return np.asarray(ndimage.gaussian_filter(grid, 0.7, mode="nearest")[1:-1, 1:-1])


def field(
    grid: Floats,
    image_shape: Sequence[int],
    origin: Sequence[int],
    shape: Sequence[int],
    *,
    beyond: bool,
) -> Floats:
    """Return a grid's values for each pixel, (Y, X) float32, of a tile of ``shape`` at ``origin``.

    They are linear between the squares' centres. Beyond the outermost centres they continue
    linearly if ``beyond``, else they are constant. All lengths are (Y, X) in pixels.
    """
    values = grid
    for axis in (0, 1):
        count = grid.shape[axis]
        position = np.arange(origin[axis], origin[axis] + shape[axis]) + 0.5
        position = position * (count / image_shape[axis]) - 0.5
        if count == 1 or not beyond:
            position = np.clip(position, 0, count - 1)
        low = np.clip(np.floor(position).astype(np.intp), 0, max(count - 2, 0))
        weight = np.expand_dims((position - low).astype(np.float32), 1 - axis)
        high = np.minimum(low + 1, count - 1)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


def level_histogram(level: Floats) -> Counts:
    """Return the histogram of the levels; the sum of the parts' histograms is the image's.

    Levels below 0 count as 0. The bins are relative: the range of the levels is not known before.
    """
    positive = np.ascontiguousarray(np.maximum(level, 0, dtype=np.float32))
    bins = positive.view(np.uint32).ravel() >> _DROPPED_BITS
    return np.bincount(bins.view(np.int32), minlength=1 << (31 - _DROPPED_BITS))


def threshold_of(histogram: Counts, least: float) -> float:
    """Return Otsu's threshold of the levels, 0 where none is above ``least``.

    Levels above the 99th percentile of those that are above ``least`` count as that percentile.

    Source: Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66. scikit-image's implementation
    has bins of equal width and counts in float32, which is too coarse for a slide's pixels.
    """
    used = int(np.flatnonzero(histogram)[-1]) + 1
    bits = np.arange(used, dtype=np.uint32) << np.uint32(_DROPPED_BITS)
    levels = (bits + np.uint32(1 << (_DROPPED_BITS - 1))).view(np.float32).astype(np.float64)
    counts = histogram[:used]
    bright = np.where(levels > least, counts, 0)
    if not bright.any():
        return 0.0
    brightest = levels[np.searchsorted(np.cumsum(bright), _BRIGHTEST * bright.sum())]
    fraction = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * np.minimum(levels, brightest)) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (moment[-1] * fraction - moment) ** 2 / (fraction * (1 - fraction))
    return float(levels[np.argmax(np.nan_to_num(variance, nan=0.0, posinf=0.0))])


def significant_level(noise: Floats, parameters: Mapping[str, Any]) -> float:
    """Return the level above which a pixel is likely no background, for the median noise."""
    return float(parameters["min_contrast"]) * float(np.median(noise))


def level_of(
    smoothed: Floats,
    background: Floats,
    image_shape: Sequence[int],
    origin: Sequence[int] = (0, 0),
) -> Floats:
    """Return the smoothed image, or a part of it at ``origin``, minus its background."""
    return smoothed - field(background, image_shape, origin, smoothed.shape[-2:], beyond=True)


def bright_objects(
    gray: Floats, parameters: Mapping[str, Any], z_aspect: float = 1.0
) -> BrightObjects:
    """Return the statistics of a whole image, (Y, X) or (Z, Y, X) float32.

    Of a volume, the diameter is that of at most 8 planes, and each column has one background.
    """
    height, width = gray.shape[-2:]
    diameter_px = float(parameters["diameter_px"])
    if not diameter_px:
        planes = gray.reshape(-1, height, width)
        edges = grid_edges(height, SCALE_SQUARE_PX)
        some = planes[:: -(-len(planes) // 8)]
        diameter_px = diameter_of(
            spectrum for plane in some for spectrum in scale_spectra(plane, edges)
        )
    scale = scale_of(diameter_px, parameters)
    smoothed = smooth(gray, scale.sigma_px, z_aspect)
    row_edges, column_edges = (grid_edges(size, scale.square_px) for size in (height, width))
    quartiles, noise = grids(smoothed, scale, row_edges, column_edges)
    background = background_grid(quartiles, noise)
    histogram = level_histogram(level_of(smoothed, background, (height, width)))
    otsu = threshold_of(histogram, significant_level(noise, parameters))
    return BrightObjects(diameter_px, background, noise, otsu)
