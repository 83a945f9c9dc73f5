"""Measure all objects of a label image at once: shape, position and intensities.

Each definition is the one of scikit-image's ``regionprops``
(https://scikit-image.org/docs/stable/api/skimage.measure.html), computed for all objects together
from their pixels, which is several times faster than one object after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """The pixels of all objects of a label image.

    Attributes:
        shape: Shape of the label image, (Y, X) or (Z, Y, X).
        count: Number of objects; their labels are 1..count.
        at: Index of each pixel of an object in the flattened label image.
        object_of: Index of its object, from 0.
        area_px: Pixels of each object.
    """

    shape: tuple[int, ...]
    count: int
    at: Integers
    object_of: Integers
    area_px: Integers

    @classmethod
    def of(cls, labels: npt.NDArray[np.integer], count: int) -> Regions:
        """Return the regions of ``labels``, (Y, X) or (Z, Y, X), whose labels are 1..``count``."""
        flat = labels.ravel()
        at = np.flatnonzero(flat)
        object_of = flat[at].astype(np.int64) - 1
        return cls(labels.shape, count, at, object_of, np.bincount(object_of, minlength=count))

    def coordinates(self) -> list[Integers]:
        """Return the coordinates of the pixels along each axis."""
        return [np.asarray(each, np.int64) for each in np.unravel_index(self.at, self.shape)]

    def sums(self, weights: npt.NDArray[np.number]) -> Floats:
        """Return the sum of ``weights``, one for each pixel, over each object."""
        sums = np.bincount(self.object_of, weights, minlength=self.count)
        return np.asarray(sums, np.float64)

    def extremes(self, values: npt.NDArray[np.number]) -> tuple[Array, Array]:
        """Return the smallest and the largest of ``values``, one for each pixel, of each object."""
        order = np.argsort(self.object_of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self.area_px)[:-1]]).astype(np.intp)
        if not self.count:
            return values[:0], values[:0]
        in_order = values[order]
        return np.minimum.reduceat(in_order, starts), np.maximum.reduceat(in_order, starts)


def centroids(regions: Regions) -> list[Floats]:
    """Return the mean coordinate of each object along each axis, in pixels."""
    return [regions.sums(each) / regions.area_px for each in regions.coordinates()]


def bounding_boxes(regions: Regions) -> list[tuple[Integers, Integers]]:
    """Return the first and the last coordinate of each object along each axis, in pixels."""
    return [regions.extremes(each) for each in regions.coordinates()]


def inertia(regions: Regions, spacing: Sequence[float]) -> Floats:
    """Return the inertia tensor of each object, (count, N, N), in the square of the unit.

    ``spacing`` is the distance of two pixels along each axis. It is the tensor of
    ``skimage.measure.inertia_tensor``.
    """
    size = len(regions.shape)
    offsets = []
    for axis, (coordinates, mean) in enumerate(
        zip(regions.coordinates(), centroids(regions), strict=True)
    ):
        offsets.append((coordinates - mean[regions.object_of]) * spacing[axis])
    moments = np.empty((regions.count, size, size))
    for row in range(size):
        for column in range(row, size):
            moment = regions.sums(offsets[row] * offsets[column]) / regions.area_px
            moments[:, row, column] = moments[:, column, row] = moment
    trace = np.trace(moments, axis1=1, axis2=2)
    tensor: Floats = trace[:, None, None] * np.eye(size) - moments
    return tensor


def axis_lengths(tensor: Floats) -> tuple[Floats, Floats]:
    """Return the lengths of the longest and shortest axis of the ellipse or ellipsoid of inertia.

    ``tensor`` is :func:`inertia`. The ellipse has the same second moments as the object.
    """
    values = _eigenvalues(tensor)
    if tensor.shape[-1] == 2:
        return 4 * np.sqrt(values[:, 0]), 4 * np.sqrt(values[:, 1])
    first, second, third = values.T
    major = np.sqrt(10 * np.maximum(first + second - third, 0))
    return major, np.sqrt(10 * np.maximum(-first + second + third, 0))


def eccentricity(tensor: Floats) -> Floats:
    """Return the eccentricity of the ellipse of inertia, 0 for a circle; ``tensor`` is of 2D."""
    values = _eigenvalues(tensor)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(values[:, 0] > 0, values[:, 1] / values[:, 0], 1.0)
    return np.asarray(np.sqrt(1 - ratio), np.float64)


def orientation(tensor: Floats) -> Floats:
    """Return the angle between the y axis and the longest axis, -pi/2 to pi/2; of 2D.

    Positive angles turn from the y axis to the x axis.
    """
    a, b, c = tensor[:, 0, 0], tensor[:, 0, 1], tensor[:, 1, 1]
    round_one = np.where(b < 0, math.pi / 4, -math.pi / 4)
    return np.where(a == c, round_one, 0.5 * np.arctan2(-2 * b, c - a))


def perimeters(labels: npt.NDArray[np.integer], count: int) -> Floats:
    """Return the length of the line through the centres of the border pixels of each object.

    ``labels`` (Y, X) holds 1..``count``. It is ``skimage.measure.perimeter`` with the
    neighbourhood 4, after Benkrid and Crookes (2000): a border pixel weighs 1, the root of 2 or
    their mean, by its neighbours on the border of the same object.
    """
    padded = np.pad(labels, 2)
    inner = padded[1:-1, 1:-1]
    is_inside = np.ones(inner.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        is_inside &= inner == _shifted(padded, rows, columns)
    border = np.where((inner > 0) & ~is_inside, inner, 0)
    core = border[1:-1, 1:-1]
    code = np.where(core > 0, 1, 0)
    for rows in range(3):
        for columns in range(3):
            weight = (0, 2, 10)[(rows != 1) + (columns != 1)]
            if weight:
                code += weight * ((core > 0) & (_shifted(border, rows, columns) == core))
    weights = np.zeros(51)
    weights[[5, 7, 15, 17, 25, 27]] = 1
    weights[[21, 33]] = math.sqrt(2)
    weights[[13, 23]] = (1 + math.sqrt(2)) / 2
    at = np.flatnonzero(core)
    lengths = np.bincount(core.ravel()[at], weights[code.ravel()[at]], minlength=count + 1)
    return np.asarray(lengths[1:], np.float64)


def intensities(regions: Regions, pixels: npt.NDArray[np.number]) -> dict[str, Array]:
    """Return mean, min, max and standard deviation of ``pixels`` over each object.

    ``pixels`` has the shape of the label image. The sums are of float64.
    """
    values = pixels.ravel()[regions.at]
    exact = values.astype(np.float64)
    low, high = regions.extremes(values)
    mean = regions.sums(exact) / regions.area_px
    # The sum of squares minus the square of the sum would lose the digits of a bright image.
    variance = regions.sums((exact - mean[regions.object_of]) ** 2) / regions.area_px
    return {
        "mean": mean,
        "min": low.astype(np.float64),
        "max": high.astype(np.float64),
        "std": np.sqrt(variance),
    }


def _shifted(padded: Array, rows: int, columns: int) -> Array:
    """Return the part of an array, padded by 1, that begins at ``rows`` and ``columns``."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    return padded[rows : rows + height, columns : columns + width]


def _eigenvalues(tensor: Floats) -> Floats:
    """Return the eigenvalues of each tensor, the largest first; rounding makes none negative."""
    values = np.linalg.eigvalsh(tensor)[:, ::-1] if len(tensor) else tensor[:, :, 0]
    return np.maximum(values, 0)
