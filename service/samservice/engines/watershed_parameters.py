"""The parameters of the watershed engine. This module imports no library of the engine."""

from __future__ import annotations

from typing import Any

from ..contract.parameters import Z_ASPECT

PARAMETERS: dict[str, dict[str, Any]] = {
    "diameter_px": {
        "default": 0.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1024.0,
        "description": "typical diameter of a nucleus, pixels; 0 finds it from the image; larger "
        "divides less",
    },
    "sigma_px": {
        "default": 0.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 20.0,
        "description": "Gaussian smoothing of the image, pixels; 0 is a 25th of the diameter, at "
        "least 1",
    },
    "background_px": {
        "default": 0,
        "type": "integer",
        "minimum": 0,
        "maximum": 4096,
        "description": "side of the squares in which background and noise are estimated, pixels; "
        "the darkest 25 % of each square is taken as background; 0 is four diameters",
    },
    "local_window_px": {
        "default": 0,
        "type": "integer",
        "minimum": 0,
        "maximum": 1025,
        "description": "side of the window of the local threshold, pixels; 0 is one and a half "
        "diameters",
    },
    "threshold_scale": {
        "default": 1.0,
        "type": "number",
        "minimum": 0.1,
        "maximum": 5.0,
        "description": "factor on the threshold; lower finds dimmer and larger objects",
    },
    "min_contrast": {
        "default": 5.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 100.0,
        "description": "least height above the background, of the threshold in standard "
        "deviations of the smoothed background, of an object in standard errors of its mean; "
        "keeps an empty image empty",
    },
    "edge_fraction": {
        "default": 0.4,
        "type": "number",
        "minimum": 0.0,
        "maximum": 0.95,
        "description": "an object ends where its brightness falls below this fraction of its "
        "mean; 0 leaves the threshold's outline",
    },
    "min_distance_px": {
        "default": 0,
        "type": "integer",
        "minimum": 0,
        "maximum": 500,
        "description": "objects whose centres are nearer than this along every axis are one, "
        "pixels; 0 divides at necks alone",
    },
    "min_area_px": {
        "default": 0,
        "type": "integer",
        "minimum": 0,
        "maximum": 100_000_000,
        "description": "least size of an object, pixels (voxels in a volume); 0 is a fifth of a "
        "disc (ball) of the diameter, which leaves out micronuclei and debris",
    },
    Z_ASPECT: {
        "default": 1.0,
        "type": "number",
        "minimum": 0.02,
        "maximum": 50.0,
        "description": "distance of a volume's planes in pixels; where it is not given, the client "
        "takes it from the file's pixel sizes",
    },
}
