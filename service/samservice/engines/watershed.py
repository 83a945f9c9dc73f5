"""The watershed engine segments bright nuclei with thresholds and a watershed, without a model.

The stages: find the typical diameter; subtract the background; apply a threshold, half of Otsu's or
the local mean, but never below the noise; divide the foreground at its necks; divide what is still
larger than a nucleus by a threshold in a narrower window; trim each object at a fraction of its
mean brightness, which removes the blur around bright objects; drop what is much smaller than a
nucleus.
"""
# scikit-image has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import watershed

from ..contract.bright_objects import (
    LEAST_NOISE,
    Scale,
    bright_objects,
    field,
    level_of,
    scale_of,
    smooth,
    square_count,
)
from ..contract.channels import is_constant, to_gray
from ..contract.errors import EmbeddingsUnsupported, WrongParameter
from ..contract.image_statistics import (
    BRIGHT_OBJECTS,
    INTENSITY_RANGE,
    BrightObjects,
    ImageStatistics,
)
from ..contract.parameters import Z_ASPECT, check_parameters
from .basins import Foreground, Labels, ObjectSize, divide
from .watershed_parameters import PARAMETERS

Floats = npt.NDArray[np.float32]

#: Part of Otsu's threshold that a pixel must exceed.
_OTSU_PART = 0.5
#: An object has an edge where, this part of a diameter outside of it, the darkest quarter of its
#: surroundings lies below this part of its mean level. Haze and illumination have none.
_EDGE_WIDTH = 0.15
_EDGE_LEVEL = 0.6
#: An object of more typical sizes than this is divided again, in a window of this many diameters.
_CLUMP_SIZE = 1.6
_CLUMP_WINDOW = 0.75
#: Holes up to this part of a typical object are filled, as nucleoli are dark.
_HOLE_PART = 0.25
#: Least size of an object, and of a part of a clump, as a part of a typical object.
_LEAST_PART = 0.2
#: No object is smaller, in pixels.
_LEAST_AREA_PX = 12


@dataclass(frozen=True)
class _Image:
    """An image or tile with the statistics of its whole image.

    Attributes:
        level: The smoothed image minus its background, (Y, X) or (Z, Y, X).
        height: The image itself minus its background.
        noise: Standard deviation of ``level`` without objects, (Y, X).
        otsu: Otsu's threshold of ``level``.
        scale: The lengths in pixels.
        size: The typical size of an object.
    """

    level: Floats
    height: Floats
    noise: Floats
    otsu: float
    scale: Scale
    size: ObjectSize


def _object_size(scale: Scale, shape: tuple[int, ...], settings: dict[str, Any]) -> ObjectSize:
    disc = math.pi / 4 * scale.diameter_px**2
    sampling: tuple[float, ...] = (1.0, 1.0)
    if len(shape) == 3:
        z_aspect = float(settings[Z_ASPECT])
        # A stack of few planes has slices of balls.
        disc *= max(min(2 / 3 * scale.diameter_px / z_aspect, shape[0]), 1.0)
        sampling = (z_aspect, 1.0, 1.0)
    return ObjectSize(scale.diameter_px, disc, sampling, settings["min_distance_px"])


def _prepared(gray: Floats, settings: dict[str, Any], statistics: ImageStatistics | None) -> _Image:
    """Subtract the background; of a tile, by the ``statistics`` of its whole image."""
    shape, origin, found = gray.shape[-2:], (0, 0), None
    if statistics is not None:
        shape, origin, found = (
            statistics.shape_px,
            statistics.origin_px,
            statistics.bright_objects,
        )
    z_aspect = float(settings[Z_ASPECT])
    if found is None:
        found = bright_objects(gray, settings, z_aspect)
    scale = scale_of(found.diameter_px, settings)
    _check_grid(found, shape, scale)
    smoothed = smooth(gray, scale.sigma_px, z_aspect)
    return _Image(
        level=level_of(smoothed, found.background, shape, origin),
        height=level_of(gray, found.background, shape, origin),
        noise=field(found.noise, shape, origin, gray.shape[-2:], beyond=False),
        otsu=found.otsu,
        scale=scale,
        size=_object_size(scale, gray.shape, settings),
    )


def _check_grid(found: BrightObjects, shape: tuple[int, ...], scale: Scale) -> None:
    expected = tuple(square_count(size, scale.square_px) for size in shape)
    if found.background.shape != expected:
        raise WrongParameter(
            f"image_statistics: background {found.background.shape}, expected {expected} for an"
            f" image of {shape} px and squares of {scale.square_px} px"
        )


def _local_mean(level: Floats, window_px: float, sampling: tuple[float, ...]) -> Floats:
    sizes = [int(window_px / step) | 1 for step in sampling]
    return np.asarray(ndimage.uniform_filter(level, sizes))


def _foreground(image: _Image, settings: dict[str, Any]) -> Foreground:
    """Return the mask of the pixels above the threshold, with small holes filled."""
    threshold = _local_mean(image.level, image.scale.window_px, image.size.sampling)
    threshold += np.float32(LEAST_NOISE)
    np.maximum(threshold, np.float32(_OTSU_PART * image.otsu), out=threshold)
    threshold *= np.float32(settings["threshold_scale"])
    np.maximum(threshold, np.float32(settings["min_contrast"]) * image.noise, out=threshold)
    return _filled(image.level > threshold, image.size)


def _filled(foreground: Foreground, size: ObjectSize) -> Foreground:
    """Fill the holes that are small compared with an object. A gap at the border is no hole."""
    holes, count = ndimage.label(~foreground)
    pixel_counts = np.bincount(holes.ravel(), minlength=count + 1)
    is_small = pixel_counts <= _HOLE_PART * size.pixel_count
    for axis in (-2, -1):
        for end in (0, -1):
            is_small[holes.take(end, axis)] = False
    is_small[0] = False
    return np.asarray(foreground | is_small[holes])


def _without_clumps(objects: Labels, image: _Image) -> Labels:
    """Divide the objects that are larger than one nucleus at the dark seams inside them."""
    size = image.size
    is_clump = np.bincount(objects.ravel()) > _CLUMP_SIZE * size.pixel_count
    is_clump[0] = False
    clumps = is_clump[objects]
    if not clumps.any():
        return objects
    window_px = _CLUMP_WINDOW * image.scale.diameter_px
    bright = clumps & (image.level > _local_mean(image.level, window_px, size.sampling))
    parts = divide(_filled(bright, size) & clumps, size)
    count = int(objects.max()) + 1
    # A part lies in one clump, and is more than a speck; a clump without parts is its own.
    inside = parts > 0
    pairs = parts[inside].astype(np.int64) * count + objects[inside]
    parts[inside] = np.unique(pairs, return_inverse=True)[1] + 1
    is_part = np.bincount(parts.ravel()) >= _LEAST_PART * size.pixel_count
    is_part[0] = False
    is_divided = np.zeros(count, bool)
    is_divided[objects[is_part[parts]]] = True
    markers = np.where(is_part[parts], parts + count, 0)
    markers = np.where(clumps & ~is_divided[objects], objects, markers)
    # Not on a flat ground, where the order of equal pixels depends on the whole array.
    divided = watershed(-image.level, markers, mask=clumps)
    return np.where(clumps, divided, objects).astype(np.int32)


def _trimmed(objects: Labels, image: _Image, fraction: float) -> Labels:
    """Remove from each object the edge darker than ``fraction`` of its mean level."""
    flat = objects.ravel()
    sums = np.bincount(flat, weights=image.level.ravel())
    limits = (fraction * sums / np.maximum(np.bincount(flat), 1)).astype(np.float32)
    kept = (objects > 0) & (image.level >= limits[objects])
    return np.where(_filled(kept, image.size), objects, 0)


def _numbered(objects: Labels, image: _Image, settings: dict[str, Any]) -> npt.NDArray[np.uint32]:
    """Return uint32 labels, numbered from 1, of the largest connected piece of each object.

    Pieces that are too small are removed, and those whose mean ``height`` is fewer standard errors
    (of their own pixels) than ``min_contrast``: these are hot pixels, and chance clusters of single
    photons in images where the quantiles measure no noise. Pieces without an edge are removed too.
    """
    pieces = np.asarray(label(objects, connectivity=1))
    flat, heights = pieces.ravel(), image.height.ravel()
    pixel_counts = np.bincount(flat)
    means = np.bincount(flat, weights=heights) / np.maximum(pixel_counts, 1)
    squares = np.bincount(flat, weights=heights * heights) / np.maximum(pixel_counts, 1)
    deviations = np.sqrt(np.maximum(squares - means * means, 0))
    least = settings["min_area_px"] or max(_LEAST_PART * image.size.pixel_count, _LEAST_AREA_PX)
    kept = _is_largest(pieces, objects, pixel_counts) & (pixel_counts >= least)
    kept &= _has_edge(pieces, image)
    kept &= means * np.sqrt(pixel_counts) >= settings["min_contrast"] * deviations
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    return np.asarray(numbers[pieces])


def _is_largest(
    pieces: npt.NDArray[Any], objects: Labels, pixel_counts: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Return for each piece whether it is the largest of its object."""
    owners = np.zeros(pixel_counts.size, np.intp)
    owners[pieces.ravel()] = objects.ravel()
    largest = np.zeros(int(owners.max()) + 1, np.intp)
    order = np.argsort(pixel_counts, kind="stable")
    largest[owners[order]] = order
    return np.asarray(largest[owners] == np.arange(pixel_counts.size))


def _has_edge(pieces: npt.NDArray[Any], image: _Image) -> npt.NDArray[np.bool_]:
    """Return for each piece whether the level falls around it, at least on a quarter of its rim.

    The pixels near two pieces count for none; a piece without any others has an edge.
    """
    count = int(pieces.max()) + 1
    sizes = [
        2 * max(round(_EDGE_WIDTH * image.scale.diameter_px / step), 1) + 1
        for step in image.size.sampling
    ]
    highest = ndimage.maximum_filter(pieces, sizes)
    lowest = ndimage.minimum_filter(np.where(pieces > 0, pieces, count), sizes)
    rim = (pieces == 0) & (highest == lowest)
    owners, levels = highest[rim], image.level[rim]
    order = np.lexsort((levels, owners))
    owners, levels = owners[order], levels[order]
    firsts = np.searchsorted(owners, np.arange(count + 1))
    lengths = np.diff(firsts)
    quartiles = np.full(count, -np.inf)
    has_rim = lengths > 0
    quartiles[has_rim] = levels[(firsts[:-1] + lengths // 4)[has_rim]]
    flat = pieces.ravel()
    means = np.bincount(flat, weights=image.level.ravel()) / np.maximum(np.bincount(flat), 1)
    return np.asarray(quartiles < _EDGE_LEVEL * means)


def _segment_gray(
    gray: Floats, settings: dict[str, Any], statistics: ImageStatistics | None
) -> npt.NDArray[np.uint32]:
    """Segment (Y, X) or (Z, Y, X) into uint32 labels of the same shape.

    When ``gray`` is a tile, ``statistics`` of its whole image replace the tile's own.
    """
    if statistics is None and is_constant(gray):
        return np.zeros(gray.shape, np.uint32)
    image = _prepared(gray, settings, statistics)
    foreground = _foreground(image, settings)
    if not foreground.any():
        return np.zeros(gray.shape, np.uint32)
    objects = _without_clumps(divide(foreground, image.size), image)
    return _numbered(_trimmed(objects, image, settings["edge_fraction"]), image, settings)


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
            "segmentation_version": 3,
            "versions": {package: version(package) for package in packages},
            "embeddings": False,
            "image_statistics": [INTENSITY_RANGE, BRIGHT_OBJECTS],
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
        image of pure noise give zeros. The planes of a volume are ``z_aspect`` pixels apart.

        Raises :class:`WrongParameter` and :class:`WrongAxes`.
        """
        self.check_parameters(parameters)
        defaults = {name: schema["default"] for name, schema in PARAMETERS.items()}
        ranges = statistics.intensity_range if statistics else None
        gray = to_gray(image, axes, ranges, clipped=False)
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
