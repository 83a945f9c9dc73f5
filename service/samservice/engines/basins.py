"""Divide a foreground into objects at its necks, which the distance to the edge shows.

A watershed of the distance has a basin for each of its maxima, more than there are objects. Two
basins are joined where the neck between them is wide, compared with the narrower of the two. How
wide it must be depends on the size of both together: two halves of one typical object are joined
at a narrow neck, two typical objects only where there is hardly any.
"""
# scikit-image and scipy have no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.graph import RAG, merge_hierarchical
from skimage.segmentation import watershed

Labels = npt.NDArray[np.int32]
Foreground = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: The logarithm of a neck, relative to the narrower basin, below which basins are kept apart, for
#: a union of one typical object and of three.
_NECK_OF_ONE = 0.5
_NECK_OF_THREE = 0.1


@dataclass(frozen=True)
class ObjectSize:
    """The typical size of an object.

    Attributes:
        diameter_px: Its diameter in pixels.
        pixel_count: Its area in pixels, or its volume in voxels.
        sampling: Distance of the array's elements along each axis, in pixels.
        min_distance_px: Basins whose centres are nearer along every axis are joined.
    """

    diameter_px: float
    pixel_count: float
    sampling: tuple[float, ...]
    min_distance_px: int


def divide(foreground: Foreground, size: ObjectSize) -> Labels:
    """Return int32 labels of the objects in ``foreground``, (Y, X) or (Z, Y, X); 0 outside."""
    depth = ndimage.distance_transform_edt(foreground, sampling=size.sampling).astype(np.float32)
    sigmas = [0.06 * size.diameter_px / step for step in size.sampling]
    depth = np.where(foreground, ndimage.gaussian_filter(depth, sigmas, truncate=3), 0)
    neighbours = np.ones((3,) * depth.ndim, bool)
    peaks = foreground & (depth == ndimage.maximum_filter(depth, size=3))
    markers, _ = ndimage.label(peaks, structure=neighbours)
    basins = np.asarray(watershed(-depth, markers, mask=foreground), np.int32)
    return _joined(basins, markers, depth, size)


def _joined(basins: Labels, markers: Labels, depth: Floats, size: ObjectSize) -> Labels:
    """Join the basins whose neck is wide, the widest first.

    ``markers`` are the maxima of ``depth``, each with the number of its basin.
    """
    count = int(markers.max()) + 1
    at = np.flatnonzero(markers)
    numbers = markers.ravel()[at]
    peaks, centres = np.zeros(count), np.zeros((count, depth.ndim), np.intp)
    peaks[numbers] = depth.ravel()[at]
    centres[numbers] = np.stack(np.unravel_index(at, depth.shape), axis=1)
    pixel_counts = np.bincount(basins.ravel(), minlength=count)
    graph = RAG()
    # The background has to be the first node, as merge_hierarchical numbers them anew.
    for node in range(count):
        graph.add_node(
            node,
            labels=[node],
            peak=float(peaks[node]),
            pixel_count=int(pixel_counts[node]),
            centre=tuple(centres[node].tolist()),
        )
    for first, second, saddle in _necks(basins, depth):
        graph.add_edge(first, second, saddle=saddle)
        graph[first][second]["weight"] = _weight(graph, first, second, saddle, size)

    def weigh(graph: Any, source: int, target: int, neighbour: int) -> dict[str, float]:
        saddle = max(
            graph[node][neighbour]["saddle"]
            for node in (source, target)
            if graph.has_edge(node, neighbour)
        )
        return {"saddle": saddle, "weight": _weight(graph, target, neighbour, saddle, size)}

    labels = merge_hierarchical(
        basins, graph, 0.0, rag_copy=False, in_place_merge=True, merge_func=_join, weight_func=weigh
    )
    return np.asarray(labels, np.int32)


def _join(graph: Any, source: int, target: int) -> None:
    """Give the node ``target`` the pixels of ``source`` and the centre of the deeper one."""
    one, other = graph.nodes[source], graph.nodes[target]
    other["pixel_count"] += one["pixel_count"]
    if one["peak"] > other["peak"]:
        other["peak"], other["centre"] = one["peak"], one["centre"]


def _weight(graph: Any, first: int, second: int, saddle: float, size: ObjectSize) -> float:
    """Return how much too narrow the neck of two basins is to join them; below 0 joins them."""
    one, other = graph.nodes[first], graph.nodes[second]
    offsets = (abs(a - b) for a, b in zip(one["centre"], other["centre"], strict=True))
    distances = (step * offset for step, offset in zip(size.sampling, offsets, strict=True))
    if max(distances) < size.min_distance_px:
        return -math.inf
    objects = (one["pixel_count"] + other["pixel_count"]) / size.pixel_count
    part = min(max(math.log(objects) / math.log(3), 0.0), 1.0)
    limit = _NECK_OF_ONE + (_NECK_OF_THREE - _NECK_OF_ONE) * part
    return math.log(min(one["peak"], other["peak"]) / saddle) - limit


def _necks(basins: Labels, depth: Floats) -> list[tuple[int, int, float]]:
    """Return each pair of touching basins with the greatest depth on their border."""
    keys, depths = [], []
    count = int(basins.max()) + 1
    for axis in range(basins.ndim):
        ahead, behind = (
            tuple(part if each == axis else slice(None) for each in range(basins.ndim))
            for part in (slice(1, None), slice(None, -1))
        )
        first, second = basins[ahead], basins[behind]
        touching = (first != second) & (first > 0) & (second > 0)
        pair = first[touching].astype(np.int64), second[touching].astype(np.int64)
        keys.append(np.minimum(*pair) * count + np.maximum(*pair))
        depths.append(np.minimum(depth[ahead][touching], depth[behind][touching]))
    all_keys, all_depths = np.concatenate(keys), np.concatenate(depths)
    order = np.lexsort((-all_depths, all_keys))
    pairs, firsts = np.unique(all_keys[order], return_index=True)
    saddles = all_depths[order][firsts]
    return [
        (*divmod(key, count), saddle)
        for key, saddle in zip(pairs.tolist(), saddles.tolist(), strict=True)
    ]
