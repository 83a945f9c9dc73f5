"""The parameters of each of micro-sam's modes. This module does not import micro-sam.

Names and defaults are those of the ``generate`` methods in ``micro_sam.instance_segmentation``
(1.8), without the arguments that change memory use, number of threads or the kind of result, and
of ``micro_sam.multi_dimensional_segmentation.merge_instance_segmentation_3d``, where 0 stands for
None. ``normalization`` is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.normalization import NORMALIZATIONS

MODES = ("ais", "amg", "apg")

Schema = dict[str, Any]


def _fraction(default: float, description: str) -> Schema:
    return {
        "default": default,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
        "description": description,
    }


def _smoothing(default: float, least: float, description: str) -> Schema:
    return _fraction(default, description) | {"minimum": least, "maximum": 20.0}


def _area(default: int, description: str) -> Schema:
    return {
        "default": default,
        "type": "integer",
        "minimum": 0,
        "maximum": 100_000_000,
        "description": description,
    }


def _planes(description: str) -> Schema:
    return _area(0, description) | {"maximum": 1000}


def _switch(default: bool, description: str) -> Schema:
    """Return the schema of a boolean parameter."""
    return {"default": default, "type": "boolean", "description": description}


_SEEDS: dict[str, Schema] = {
    "center_distance_threshold": _fraction(
        0.5, "a seed has a predicted distance to the object's centre below this"
    ),
    "boundary_distance_threshold": _fraction(
        0.5, "a seed has an inverted distance to the object's boundary below this"
    ),
    "foreground_threshold": _fraction(0.5, "the foreground prediction of an object exceeds this"),
}

#: The arguments of ``generate`` in each mode.
OF_GENERATE: dict[str, dict[str, Schema]] = {
    "ais": {
        **_SEEDS,
        "foreground_smoothing": _smoothing(1.0, 0.0, "sigma for the foreground prediction, pixels"),
        # With tiles micro-sam fails at 0; at 0.1 the smoothing has no effect.
        "distance_smoothing": _smoothing(1.6, 0.1, "sigma for the distance predictions, pixels"),
        "min_size": _area(0, "least size of an object, pixels"),
    },
    "amg": {
        "pred_iou_thresh": _fraction(0.88, "least quality that the model predicts for its mask"),
        "stability_score_thresh": _fraction(
            0.95, "least stability of a mask when its threshold changes"
        ),
        "box_nms_thresh": _fraction(
            0.7, "IoU above which the mask of lower quality of two is dropped"
        ),
        "crop_nms_thresh": _fraction(0.7, "as box_nms_thresh, for masks of two tiles"),
        "min_mask_region_area": _area(0, "smaller holes and islands of a mask are removed, pixels"),
        "with_background": _switch(
            True,
            "remove the largest object, often the background; in a volume, the objects of two "
            "planes are never joined through the background",
        ),
    },
    "apg": {
        **_SEEDS,
        "min_size": _area(25, "least size of an object, pixels"),
        "multimasking": _switch(False, "let the model propose three masks per prompt"),
        "nms_threshold": _fraction(
            0.9, "overlap above which the mask of lower quality of two is dropped"
        ),
        "intersection_over_min": _switch(False, "overlap is relative to the smaller mask"),
    },
}

#: The arguments of the merging of a volume's planes.
OF_MERGING: dict[str, Schema] = {
    "gap_closing": _planes(
        "volumes: iterations of a binary closing along z, which closes gaps of up to twice as many "
        "planes; 0 closes none"
    ),
    "min_z_extent": _planes("volumes: objects in fewer planes are removed; 0 removes none"),
    "with_background": _switch(
        True, "volumes: objects of two planes are never joined through the background"
    ),
}

NORMALIZATION = "normalization"

_OWN: dict[str, Schema] = {
    NORMALIZATION: {
        "default": "robust",
        "type": "string",
        "enum": list(NORMALIZATIONS),
        "description": "what becomes black and white in the model's input: robust takes the "
        "percentiles 1 and 99.8, or higher in a sparse field; minmax minimum and maximum as "
        "micro-sam does; none takes pixels from 0 to 255 as they are",
    }
}

PARAMETERS: dict[str, dict[str, Schema]] = {
    mode: {**schemas, **{n: s for n, s in OF_MERGING.items() if n not in schemas}, **_OWN}
    for mode, schemas in OF_GENERATE.items()
}


def normalization_of(parameters: Mapping[str, Any]) -> str:
    """Return the ``normalization`` of checked parameters, which may lack it."""
    return str(parameters.get(NORMALIZATION, _OWN[NORMALIZATION]["default"]))


def inference_parameters(mode: str) -> list[str]:
    """Return the parameters that the device's work depends on: in APG, it makes the labels."""
    return [NORMALIZATION, *(OF_GENERATE["apg"] if mode == "apg" else ())]


def arguments_of(
    parameters: Mapping[str, Any], mode: str, axes: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of ``generate`` and those of the merging, for a mask with ``axes``.

    As in micro-sam, ``with_background`` goes to the merging alone in a volume.
    """
    merging = {n: value for n, value in parameters.items() if n in OF_MERGING and "Z" in axes}
    generate = {
        n: value for n, value in parameters.items() if n in OF_GENERATE[mode] and n not in merging
    }
    return generate, merging
