"""Segment a volume plane by plane with micro-sam and join the objects across z."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .microsam_input import EncoderInput

#: micro-sam's own default for the bias of the multicut that joins objects.
_BETA = 0.5


def segment_volume(
    predictor: Any,
    segmenter: Any,
    volume: EncoderInput,
    tiling: Mapping[str, tuple[int, int]],
    generate: Mapping[str, Any],
    merging: Mapping[str, Any],
) -> npt.NDArray[np.uint32]:
    """Return uint32 labels (Z, Y, X) of a volume.

    Planes without content are neither encoded nor segmented: the model finds objects in black.
    Otherwise the steps are those of
    ``micro_sam.multi_dimensional_segmentation.automatic_3d_segmentation`` (1.8). ``generate`` and
    ``merging`` are the arguments of :func:`.microsam_parameters.arguments_of`.
    """
    from micro_sam.multi_dimensional_segmentation import merge_instance_segmentation_3d
    from micro_sam.util import precompute_image_embeddings

    labels = np.zeros(volume.pixels.shape, np.uint32)
    shown = np.flatnonzero(volume.has_content)
    if not len(shown):
        return labels
    planes = volume.pixels[shown]
    embeddings = precompute_image_embeddings(predictor, planes, ndim=3, verbose=False, **tiling)
    count = 0
    for number, z in enumerate(shown):
        segmenter.initialize(planes[number], image_embeddings=embeddings, verbose=False, i=number)
        plane = np.asarray(segmenter.generate(**generate)).astype(np.uint32, copy=False)
        labels[z] = np.where(plane > 0, plane + np.uint32(count), 0)
        count += int(plane.max())
    if not count:
        return labels
    merged = merge_instance_segmentation_3d(labels, beta=_BETA, verbose=False, **merging)
    return np.asarray(merged).astype(np.uint32, copy=False)
