"""The parameters of :class:`samservice.engines.cellpose.CellposeEngine`.

Names, defaults and meaning are those of ``CellposeModel.eval`` (Cellpose 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.errors import WrongParameter
from ..contract.parameters import check_parameters as check_by_schema

#: Cellpose scales images so that objects have this diameter, in pixels.
MODEL_DIAMETER_PX = 30.0
#: Steps of the dynamics at the model's diameter.
STEPS = 200

PARAMETERS: dict[str, dict[str, Any]] = {
    "diameter": {
        "default": 0.0,
        "type": "number",
        "minimum": 0.0,
        "description": "diameter of the objects, pixels; the image is scaled so that they have 30;"
        " 0: the image is not scaled",
    },
    "flow_threshold": {
        "default": 0.4,
        "type": "number",
        "minimum": 0.0,
        "description": "objects whose flows differ more than this from the model's are removed;"
        " 0 keeps all and saves most of the time; not used with do_3D",
    },
    "cellprob_threshold": {
        "default": 0.0,
        "type": "number",
        "description": "pixels above this value belong to objects; a lower value finds more and"
        " larger objects",
    },
    "min_size": {
        "default": 15,
        "type": "integer",
        "minimum": -1,
        "description": "smaller objects are removed, pixels; -1 keeps all",
    },
    "max_size_fraction": {
        "default": 0.4,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
        "description": "objects larger than this fraction of the image are removed",
    },
    "niter": {
        "default": 0,
        "type": "integer",
        "minimum": 0,
        "description": "steps of the dynamics; 0: 200, in proportion to diameter",
    },
    "augment": {
        "default": False,
        "type": "boolean",
        "description": "average the model over flipped overlapping tiles, which takes longer",
    },
    "resample": {
        "default": True,
        "type": "boolean",
        "description": "compute the dynamics at the size of the image, for smoother outlines",
    },
    "tile_overlap": {
        "default": 0.1,
        "type": "number",
        "minimum": 0.05,
        "maximum": 0.5,
        "description": "fraction by which Cellpose's own tiles of 256 pixels overlap in a volume",
    },
    "batch_size": {
        "default": 8,
        "type": "integer",
        "minimum": 1,
        "description": "such tiles that the device computes at once",
    },
    "do_3D": {
        "default": False,
        "type": "boolean",
        "description": "segment a volume by flows in three dimensions",
    },
    "anisotropy": {
        "default": 1.0,
        "type": "number",
        "minimum": 0.01,
        "description": "distance of planes over the size of a pixel, with do_3D",
    },
    "stitch_threshold": {
        "default": 0.0,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
        "description": "objects of neighbouring planes of a volume whose IoU is above this are"
        " one object; 0: no object is joined across planes; not used with do_3D",
    },
    "normalize": {
        "default": {},
        "type": "object",
        "description": "Cellpose's dictionary for the normalization; keys that are missing have"
        " Cellpose's defaults",
    },
}

#: Cellpose's own values (``models.normalize_default``), which a call can alter: the engine always
#: passes all of them.
NORMALIZE: Mapping[str, Any] = {
    "lowhigh": None,
    "percentile": None,
    "normalize": True,
    "norm3D": True,
    "sharpen_radius": 0,
    "smooth_radius": 0,
    "tile_norm_blocksize": 0,
    "tile_norm_smooth3D": 1,
    "invert": False,
}

#: Parameters that the model's output depends on; with others, the dynamics are computed again.
OF_THE_MODEL = (
    *("diameter", "augment", "resample", "tile_overlap", "batch_size"),
    *("do_3D", "anisotropy", "stitch_threshold", "normalize"),
)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise :class:`WrongParameter` with the parameter, its value and the accepted values."""
    check_by_schema(parameters, PARAMETERS)
    given = parameters.get("normalize", {})
    if unknown := sorted(set(given) - set(NORMALIZE)):
        raise WrongParameter(
            f"parameter 'normalize' has the key {unknown[0]!r}, expected some of"
            f" {', '.join(NORMALIZE)}"
        )
    for name in ("lowhigh", "percentile"):
        pair = given.get(name)
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if pair is not None and not (is_pair and pair[0] < pair[1]):
            raise WrongParameter(
                f"parameter 'normalize' has {name} {pair!r}, expected two increasing numbers"
            )


def complete(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters, with the defaults of those not given, and a whole ``normalize``."""
    defaults = {name: schema["default"] for name, schema in PARAMETERS.items()}
    given = {**defaults, **parameters}
    return {**given, "normalize": {**NORMALIZE, **given["normalize"]}}
