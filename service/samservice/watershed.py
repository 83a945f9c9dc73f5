"""The model-free engine: thresholds and a watershed for bright nuclei, nothing to download.

Background is subtracted, a threshold half Otsu's and half local is applied but never below the
noise, the distance transform is cut into one basin an object, and each object is trimmed at a
fraction of its own brightness, which takes the halo off bright objects beside dim ones.
"""
# scikit-image has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import watershed

from .channels import is_constant, to_gray
from .errors import EmbeddingsUnsupported
from .parameters import check_parameters

Floats = npt.NDArray[np.float32]

PARAMETERS: dict[str, dict[str, Any]] = {
    "sigma_px": {
        "default": 1.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 20.0,
        "description": "Gaussian smoothing of the image and of the distance map, pixels",
    },
    "background_px": {
        "default": 128,
        "type": "integer",
        "minimum": 16,
        "maximum": 4096,
        "description": "side of the squares whose dark quarter is the background, pixels; "
        "several times an object's diameter",
    },
    "local_window_px": {
        "default": 41,
        "type": "integer",
        "minimum": 3,
        "maximum": 1025,
        "description": "side of the window of the local threshold, pixels; about twice an "
        "object's diameter",
    },
    "threshold_scale": {
        "default": 1.0,
        "type": "number",
        "minimum": 0.1,
        "maximum": 5.0,
        "description": "factor on the threshold; lower finds dimmer and larger objects",
    },
    "min_contrast": {
        "default": 7.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 100.0,
        "description": "least height above the background, of the threshold in standard "
        "deviations of the smoothed background, of an object in standard errors of its mean; "
        "keeps an empty image empty",
    },
    "edge_fraction": {
        "default": 0.6,
        "type": "number",
        "minimum": 0.0,
        "maximum": 0.95,
        "description": "an object ends where its brightness falls below this fraction of its "
        "mean; 0 leaves the threshold's outline",
    },
    "min_distance_px": {
        "default": 5,
        "type": "integer",
        "minimum": 1,
        "maximum": 500,
        "description": "least distance of two objects' centres along an axis, pixels",
    },
    "min_area_px": {
        "default": 40,
        "type": "integer",
        "minimum": 1,
        "maximum": 100_000_000,
        "description": "least size of an object, pixels (voxels in a volume)",
    },
}


def _background(smooth: Floats, block_px: int) -> Floats:
    """Return a slowly varying background (Y, X): the lower quartile of squares, interpolated."""
    rows, columns = (max(1, round(size / block_px)) for size in smooth.shape[-2:])
    coarse = np.array(
        [
            [np.percentile(block[..., ::2, ::2], 25) for block in np.array_split(band, columns, -1)]
            for band in np.array_split(smooth, rows, -2)
        ],
        np.float32,
    )
    # A square full of cells would lift the background under them; its neighbours temper that.
    coarse = ndimage.gaussian_filter(coarse, 0.7, mode="nearest")
    zoom = (smooth.shape[-2] / rows, smooth.shape[-1] / columns)
    field = ndimage.zoom(coarse, zoom, order=1, mode="nearest", grid_mode=True)
    return np.asarray(field, np.float32)


def _noise(level: Floats) -> tuple[float, float]:
    """Return mean and standard deviation of the background, as if it were Gaussian.

    Taken from the darkest quarter: 2.5 % and 25 % of a Gaussian lie 1.960 and 0.674 standard
    deviations below its mean. Objects covering half of the image change this by a third.
    """
    low, quartile = np.quantile(level[..., ::2, ::2], (0.025, 0.25))
    deviation = float(quartile - low) / (1.960 - 0.674)
    return float(quartile) + 0.674 * deviation, deviation


def _basins(foreground: npt.NDArray[np.bool_], settings: dict[str, Any]) -> npt.NDArray[np.int32]:
    """Cut the foreground where the distance to its edge is least, one basin a maximum."""
    depth = ndimage.distance_transform_edt(foreground).astype(np.float32)
    depth = ndimage.gaussian_filter(depth, settings["sigma_px"], truncate=3)
    summits = depth == ndimage.maximum_filter(depth, size=2 * settings["min_distance_px"] + 1)
    everywhere = np.ones((3,) * depth.ndim, bool)
    markers, count = ndimage.label(summits & foreground, structure=everywhere)
    # A piece beside a larger one within min_distance_px has no summit, but is an object.
    pieces, piece_count = ndimage.label(foreground)
    is_marked = np.zeros(piece_count + 1, bool)
    is_marked[pieces[markers > 0]] = True
    markers = np.where(is_marked[pieces] | ~foreground, markers, pieces + count)
    return np.asarray(watershed(-depth, markers, mask=foreground), np.int32)


def _trim(basins: npt.NDArray[np.int32], height: Floats, fraction: float) -> npt.NDArray[np.int32]:
    """Remove from each basin what is darker than ``fraction`` of its mean ``height``."""
    flat = basins.ravel()
    sums = np.bincount(flat, weights=height.ravel())
    sizes = np.maximum(np.bincount(flat), 1)
    limits = (fraction * sums / sizes).astype(np.float32)
    return np.where(height >= limits[basins], basins, 0)


def _objects(
    basins: npt.NDArray[np.int32], height: Floats, settings: dict[str, Any]
) -> npt.NDArray[np.uint32]:
    """Number the connected pieces of the basins from 1, without the small and the doubtful.

    A doubtful piece has a mean ``height`` of fewer standard errors of its own pixels than
    ``min_contrast``: a chance cluster of single photons, where the quantiles see no noise.
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


def _segment_gray(gray: Floats, settings: dict[str, Any]) -> npt.NDArray[np.uint32]:
    """Segment (Y, X) or (Z, Y, X) in [0, 1] into uint32 labels of the same shape."""
    if is_constant(gray):
        return np.zeros(gray.shape, np.uint32)
    smooth = ndimage.gaussian_filter(gray, settings["sigma_px"], truncate=3)
    background = _background(smooth, settings["background_px"])
    level = smooth - background
    local = ndimage.uniform_filter(level, settings["local_window_px"])
    floor, noise = _noise(level)
    threshold = np.float32(0.5 * settings["threshold_scale"]) * (threshold_otsu(level) + local)
    np.maximum(threshold, np.float32(floor + settings["min_contrast"] * noise), out=threshold)
    foreground = np.asarray(ndimage.binary_fill_holes(level > threshold))
    if not foreground.any():
        return np.zeros(gray.shape, np.uint32)
    basins = _basins(foreground, settings)
    trimmed = _trim(basins, level - np.float32(floor), settings["edge_fraction"])
    return _objects(trimmed, gray - background - np.float32(floor), settings)


class WatershedEngine:
    """Implements :class:`samservice.engine.Engine` on the CPU; deterministic, no embeddings."""

    def describe(self) -> dict[str, Any]:
        """See :meth:`samservice.engine.Engine.describe`."""
        packages = ("numpy", "scipy", "scikit-image")
        return {
            "engine": "watershed",
            "model": "otsu-local-watershed",
            "model_sha256": None,
            "segmentation_version": 1,
            "versions": {package: version(package) for package in packages},
            "embeddings": False,
            "device": "cpu",
            "parameters": {name: dict(schema) for name, schema in PARAMETERS.items()},
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` naming the parameter, what came, what is accepted."""
        check_parameters(parameters, PARAMETERS)

    def segment(
        self, image: npt.NDArray[Any], axes: str, parameters: dict[str, Any]
    ) -> npt.NDArray[np.uint32]:
        """Segment (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X); several channels are averaged.

        Returns uint32 labels 1..n without gaps, (Y, X) or (Z, Y, X). A constant image and one
        of noise alone give zeros. Voxels of a volume count as cubes.

        Raises :class:`WrongParameter` and :class:`WrongAxes`.
        """
        self.check_parameters(parameters)
        defaults = {name: schema["default"] for name, schema in PARAMETERS.items()}
        return _segment_gray(to_gray(image, axes), defaults | parameters)

    def encode(self, image: npt.NDArray[Any], axes: str) -> dict[str, Any]:
        """Raise :class:`EmbeddingsUnsupported`: there is no network to embed with."""
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
