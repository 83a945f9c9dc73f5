"""The watershed engine segments bright nuclei with thresholds and a watershed, without a model.

The steps: subtract the background; apply a threshold, the mean of Otsu's and a local one, but never
below the noise; divide the foreground by a watershed of the distance transform into one basin per
object; trim each object at a fraction of its mean brightness, which removes the blur around bright
objects.
"""
# scikit-image has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import watershed

from ..contract.channels import is_constant, to_gray
from ..contract.errors import EmbeddingsUnsupported, WrongParameter
from ..contract.image_statistics import BACKGROUND, INTENSITY_RANGE, LEVELS, ImageStatistics, Levels
from ..contract.levels import (
    background,
    background_grid,
    grid_edges,
    level_histogram,
    levels_of,
    quartiles,
    smooth,
    square_count,
)
from ..contract.parameters import check_parameters
from .watershed_parameters import PARAMETERS

Floats = npt.NDArray[np.float32]


def _basins(foreground: npt.NDArray[np.bool_], settings: dict[str, Any]) -> npt.NDArray[np.int32]:
    """Divide the foreground into one basin per maximum of the distance to its edge.

    Returns int32 labels with the shape of ``foreground``, 0 outside of it.
    """
    depth = ndimage.distance_transform_edt(foreground).astype(np.float32)
    depth = ndimage.gaussian_filter(depth, settings["sigma_px"], truncate=3)
    peaks = depth == ndimage.maximum_filter(depth, size=2 * settings["min_distance_px"] + 1)
    neighbours = np.ones((3,) * depth.ndim, bool)
    markers, count = ndimage.label(peaks & foreground, structure=neighbours)
    # A component within min_distance_px of a larger one has no peak, but is an object.
    pieces, piece_count = ndimage.label(foreground)
    is_marked = np.zeros(piece_count + 1, bool)
    is_marked[pieces[markers > 0]] = True
    markers = np.where(is_marked[pieces] | ~foreground, markers, pieces + count)
    return np.asarray(watershed(-depth, markers, mask=foreground), np.int32)


def _trim(basins: npt.NDArray[np.int32], height: Floats, fraction: float) -> npt.NDArray[np.int32]:
    """Remove from each basin the pixels darker than ``fraction`` of its mean ``height``."""
    flat = basins.ravel()
    sums = np.bincount(flat, weights=height.ravel())
    sizes = np.maximum(np.bincount(flat), 1)
    limits = (fraction * sums / sizes).astype(np.float32)
    return np.where(height >= limits[basins], basins, 0)


def _objects(
    basins: npt.NDArray[np.int32], height: Floats, settings: dict[str, Any]
) -> npt.NDArray[np.uint32]:
    """Return uint32 labels of the basins' connected components, numbered from 1.

    Components smaller than ``min_area_px`` are removed, and those whose mean ``height`` is fewer
    standard errors (of their own pixels) than ``min_contrast``: these are chance clusters of single
    photons in images where the quantiles measure no noise.
    """
    pieces = np.asarray(label(basins, connectivity=1))
    flat, heights = pieces.ravel(), height.ravel()
    sizes = np.bincount(flat)
    means = np.bincount(flat, weights=heights) / np.maximum(sizes, 1)
    squares = np.bincount(flat, weights=heights * heights) / np.maximum(sizes, 1)
    deviations = np.sqrt(np.maximum(squares - means * means, 0))
    kept = sizes >= settings["min_area_px"]
    kept &= means * np.sqrt(sizes) >= settings["min_contrast"] * deviations
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    return np.asarray(numbers[pieces])


def _own_background(smoothed: Floats, block_px: int) -> Floats:
    rows, columns = (grid_edges(size, block_px) for size in smoothed.shape[-2:])
    grid = background_grid(quartiles(smoothed, rows, columns))
    return background(grid, smoothed.shape[-2:], (0, 0), smoothed.shape[-2:])


def _given_background(
    statistics: ImageStatistics, shape: tuple[int, ...], block_px: int
) -> Floats | None:
    """Return the background (Y, X) of a tile of ``shape`` from its image's statistics."""
    grid = statistics.background
    if grid is None:
        return None
    expected = tuple(square_count(size, block_px) for size in statistics.shape_px)
    if grid.shape != expected:
        raise WrongParameter(
            f"image_statistics: background {grid.shape}, expected {expected} for an image of "
            f"{statistics.shape_px} px and background_px {block_px}"
        )
    return background(grid, statistics.shape_px, statistics.origin_px, shape)


def _subtract_background(
    gray: Floats, settings: dict[str, Any], statistics: ImageStatistics | None
) -> tuple[Floats, Floats, Levels]:
    """Return the background, the smoothed image minus it, and the levels of the whole image."""
    smoothed = smooth(gray, settings["sigma_px"])
    image_background, levels = None, None
    if statistics is not None:
        image_background = _given_background(statistics, gray.shape, settings["background_px"])
        levels = statistics.levels
    if image_background is None:
        image_background = _own_background(smoothed, settings["background_px"])
    smoothed -= image_background
    return image_background, smoothed, levels or levels_of(level_histogram(smoothed))


def _foreground(level: Floats, levels: Levels, settings: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Return the mask of the pixels above the threshold, with holes filled."""
    threshold = ndimage.uniform_filter(level, settings["local_window_px"])
    threshold += np.float32(levels.otsu)
    threshold *= np.float32(0.5 * settings["threshold_scale"])
    least = np.float32(levels.floor + settings["min_contrast"] * levels.noise)
    np.maximum(threshold, least, out=threshold)
    return np.asarray(ndimage.binary_fill_holes(level > threshold))


def _segment_gray(
    gray: Floats, settings: dict[str, Any], statistics: ImageStatistics | None
) -> npt.NDArray[np.uint32]:
    """Segment (Y, X) or (Z, Y, X) in [0, 1] into uint32 labels of the same shape.

    When ``gray`` is a tile, ``statistics`` of its whole image replace the tile's own.
    """
    if statistics is None and is_constant(gray):
        return np.zeros(gray.shape, np.uint32)
    image_background, level, levels = _subtract_background(gray, settings, statistics)
    foreground = _foreground(level, levels, settings)
    if not foreground.any():
        return np.zeros(gray.shape, np.uint32)
    floor = np.float32(levels.floor)
    trimmed = _trim(_basins(foreground, settings), level - floor, settings["edge_fraction"])
    return _objects(trimmed, gray - image_background - floor, settings)


class WatershedEngine:
    """Implement :class:`samservice.engines.base.Engine` on the CPU, without embeddings.

    The same input always gives the same labels.
    """

    def describe(self) -> dict[str, Any]:
        """See :meth:`samservice.engines.base.Engine.describe`."""
        packages = ("numpy", "scipy", "scikit-image")
        return {
            "engine": "watershed",
            "model": "otsu-local-watershed",
            "model_sha256": None,
            "segmentation_version": 2,
            "versions": {package: version(package) for package in packages},
            "embeddings": False,
            "image_statistics": [INTENSITY_RANGE, BACKGROUND, LEVELS],
            "device": "cpu",
            "parameters": {name: dict(schema) for name, schema in PARAMETERS.items()},
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` with the parameter, its value and the accepted values."""
        check_parameters(parameters, PARAMETERS)

    def segment(
        self,
        image: npt.NDArray[Any],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> npt.NDArray[np.uint32]:
        """Segment (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X); several channels are averaged.

        Returns uint32 labels 1..n without gaps, (Y, X) or (Z, Y, X). A constant image and an
        image of pure noise give zeros. Voxels are treated as cubes.

        Raises :class:`WrongParameter` and :class:`WrongAxes`.
        """
        self.check_parameters(parameters)
        defaults = {name: schema["default"] for name, schema in PARAMETERS.items()}
        gray = to_gray(image, axes, statistics.intensity_range if statistics else None)
        return _segment_gray(gray, defaults | parameters, statistics)

    def encode(self, image: npt.NDArray[Any], axes: str) -> dict[str, Any]:
        """Raise :class:`EmbeddingsUnsupported`: the engine has no neural network."""
        raise EmbeddingsUnsupported(
            f"encode of an image with axes {axes!r}: the watershed engine has no embeddings, "
            "expected an engine that describes embeddings as true, such as microsam"
        )

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> npt.NDArray[np.uint32]:
        """Raise :class:`EmbeddingsUnsupported`, as :meth:`encode` does."""
        raise EmbeddingsUnsupported(
            f"segmentation of an embedding with {len(embedding)} entries: the watershed engine "
            "has no embeddings, expected an engine that describes embeddings as true"
        )
