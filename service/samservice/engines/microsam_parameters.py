"""The parameters of each of micro-sam's modes. This module does not import micro-sam.

Names and defaults are those of the ``generate`` methods in ``micro_sam.instance_segmentation``
(1.8), without the arguments that change memory use, number of threads or the kind of result.
"""

from __future__ import annotations

from typing import Any

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


def _switch(default: bool, description: str) -> Schema:
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

PARAMETERS: dict[str, dict[str, Schema]] = {
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
        "with_background": _switch(True, "remove the largest object, often the background"),
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
