"""The parameters of the watershed engine. This module imports no library of the engine."""

from __future__ import annotations

from typing import Any

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
        "description": "side of the squares in which the background is estimated, pixels; the "
        "darkest 25 % of each square is taken as background; several times an object's diameter",
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
