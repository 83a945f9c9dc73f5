"""Join the objects of a volume's planes across z with micro-sam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import microsam_api

#: micro-sam's own default for the bias of the multicut that joins objects.
_BETA = 0.5


def join_planes(
    planes: Iterable[npt.NDArray[np.uint32]],
    shown: Sequence[int],
    shape: tuple[int, ...],
    merging: Mapping[str, Any],
) -> npt.NDArray[np.uint32]:
    """Return uint32 labels (Z, Y, X) of a volume, whose other planes have no content.

    The steps are those of
    ``micro_sam.multi_dimensional_segmentation.automatic_3d_segmentation`` (1.8).

    Args:
        planes: The labels (Y, X) of some planes.
        shown: The numbers of these planes.
        shape: That of the volume.
        merging: The second arguments of :func:`.microsam_parameters.arguments_of`.
    """
    labels = np.zeros(shape, np.uint32)
    count = 0
    for z, plane in zip(shown, planes, strict=True):
        labels[z] = np.where(plane > 0, plane + np.uint32(count), 0)
        count += int(plane.max())
    if not count:
        return labels
    return merge_planes(labels, **merging)


def merge_planes(
    labels: npt.NDArray[np.uint32], gap_closing: int = 0, **merging: Any
) -> npt.NDArray[np.uint32]:
    """Join the objects of a volume's planes; ``labels`` (Z, Y, X) differ between planes.

    It is ``merge_instance_segmentation_3d`` of micro-sam (1.8), except that each object keeps a
    label of its own: there, an empty plane among the first or last ``gap_closing`` planes restarts
    the numbers, and two objects get one label.
    """
    micro_sam = microsam_api.multi_dimensional_segmentation()

    if gap_closing:
        closed = micro_sam._preprocess_closing(labels, gap_closing, lambda _: None)
        labels = _numbered(closed)
    merged = micro_sam.merge_instance_segmentation_3d(labels, beta=_BETA, verbose=False, **merging)
    return np.asarray(merged).astype(np.uint32, copy=False)


def _numbered(planes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return labels that continue from plane to plane; each plane's are without gaps."""
    numbered = np.zeros_like(planes)
    count = 0
    for z, plane in enumerate(planes):
        found = plane > 0
        if found.any():
            numbered[z][found] = plane[found] - plane[found].min() + (count + 1)
            count = int(numbered[z].max())
    return numbered
