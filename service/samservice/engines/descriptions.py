"""The descriptions of the built-in engines. This module imports none of the engines."""

from __future__ import annotations

from ..contract.engine_description import EngineDescription
from . import cellpose_parameters, microsam_parameters, watershed_parameters
from .microsam_options import DTYPES, FLOAT32
from .microsam_parameters import MODES

#: (Y, X) in pixels. micro-sam accepts any numbers; the engine checks their relation.
_PAIR = {"items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}

WATERSHED = EngineDescription(
    name="watershed",
    summary="thresholds and a watershed for bright nuclei, on the CPU, nothing to download",
    build="samservice.engines.watershed:WatershedEngine",
    suited_for="bright nuclei on a dark ground",
    requirements=("scikit-image>=0.24",),
    parameters=lambda options: watershed_parameters.PARAMETERS,
)

MICROSAM = EngineDescription(
    name="microsam",
    summary="any model that micro-sam can load",
    build="samservice.engines.microsam:MicroSamEngine",
    options={
        "model": {
            "default": "vit_b_lm",
            "type": "string",
            "description": "name of a model in micro-sam's registry",
            "from_crate": True,
        },
        "checkpoint": {
            "default": None,
            "type": "string",
            "description": "file of weights to load instead of the registry's",
        },
        "mode": {
            "default": "auto",
            "type": "string",
            "enum": ["auto", *MODES],
            "description": "segmentation mode; auto is ais if the model has a decoder, else amg",
            "from_crate": True,
        },
        "device": {
            "default": None,
            "type": "string",
            "description": "cpu, cuda or mps; by default the best available one",
        },
        "tile_shape": {
            "default": None,
            "type": "array",
            **_PAIR,
            "description": "(Y, X) of micro-sam's own tiles, pixels; requires halo",
            "from_crate": True,
        },
        "halo": {
            "default": None,
            "type": "array",
            **_PAIR,
            "description": "(Y, X) around each of these tiles, pixels",
            "from_crate": True,
        },
        "trust_checkpoint": {
            "default": False,
            "type": "boolean",
            # No text may be taken for a permission.
            "exact": True,
            "description": "load a checkpoint that holds more than weights, which may run any "
            "program",
        },
        "dtype": {
            "default": FLOAT32,
            "type": "string",
            "enum": list(DTYPES),
            "description": "float32, or bfloat16, which is faster on a GPU and gives other labels",
        },
    },
    requirements=("micro-sam==1.8.14",),
    # In the mode auto, only the loaded model knows its mode.
    parameters=lambda options: microsam_parameters.PARAMETERS.get(options.get("mode") or "auto"),
)

CELLPOSE = EngineDescription(
    name="cellpose",
    summary="Cellpose 4 (Cellpose-SAM), for cells and nuclei of many kinds",
    build="samservice.engines.cellpose:CellposeEngine",
    options={
        "model": {
            "default": "cpsam_v2",
            "type": "string",
            "description": "name of a model of Cellpose",
            "from_crate": True,
        },
        "checkpoint": {
            "default": None,
            "type": "string",
            "description": "file of weights to load instead",
        },
        "device": {
            "default": None,
            "type": "string",
            "description": "cpu, cuda or mps; by default the best available one",
        },
        "dtype": {
            "default": FLOAT32,
            "type": "string",
            "enum": list(DTYPES),
            "description": "float32, or bfloat16, which is faster on a GPU and gives other labels",
        },
    },
    requirements=("cellpose==4.2.1.1",),
    parameters=lambda options: cellpose_parameters.PARAMETERS,
)
