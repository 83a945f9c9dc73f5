"""An engine is checked when it is loaded; a fault is told in one line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from samservice.contract.engine_description import ENGINES, EngineDescription
from samservice.contract.errors import WrongParameter
from samservice.contract.plugins import Plugin
from samservice.engines.base import Engine, _WithDistribution, build_engine
from samservice.engines.checked_engine import METHODS, STAGE_METHODS, check_engine
from samservice.engines.stages import Stages, has_stages
from samservice.engines.watershed import WatershedEngine

from ...installed import Install

DESCRIPTION: dict[str, Any] = {
    "engine": "cells",
    "model": "cells-1",
    "model_sha256": "0" * 64,
    "segmentation_version": 1,
    "versions": {"numpy": "2.0"},
    "embeddings": False,
    "device": "cpu",
    "parameters": {
        "level": {
            "default": 0.5,
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "threshold",
        },
    },
}
_GONE = object()


class Described:
    """An engine with a given description and all methods."""

    def __init__(self, described: Any) -> None:
        self._described = described

    def describe(self) -> Any:
        return self._described

    check_parameters = segment = encode = segment_embedding = print


class Staged(Described):
    prepare = infer = finish = max_batch = working_bytes = print


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the description with another value at a path of keys such as ``versions/numpy``."""
    *outer, last = path.split("/")
    result: dict[str, Any] = {**DESCRIPTION}
    inner = result
    for key in outer:
        inner[key] = dict(inner[key])
        inner = inner[key]
    inner[last] = value
    if value is _GONE:
        del inner[last]
    return result


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        *(
            (field, _GONE, f"the field '{field}' is missing, expected {expected}")
            for field, expected in [
                ("engine", "string"),
                ("model", "string"),
                ("model_sha256", "string"),
                ("segmentation_version", "integer"),
                ("versions", "object"),
                ("embeddings", "boolean"),
                ("device", "string"),
                ("parameters", "object"),
            ]
        ),
        ("engine", "watershed", "the field 'engine' is 'watershed', expected 'cells'"),
        ("model", "", "the field 'model' is empty, expected a text"),
        ("model", None, "the field 'model' is None, expected string"),
        (
            "model_sha256",
            "abc",
            "the field 'model_sha256' is 'abc', expected 64 hexadecimal digits or null",
        ),
        (
            "segmentation_version",
            "1",
            "the field 'segmentation_version' is '1', expected integer from 0",
        ),
        (
            "segmentation_version",
            True,
            "the field 'segmentation_version' is True, expected integer from 0",
        ),
        ("versions/numpy", 2, "the field 'versions' has 'numpy' with 2, expected a text"),
        ("embeddings", "no", "the field 'embeddings' is 'no', expected true or false"),
        ("embedding_parameters", "level", "the field 'embedding_parameters' is 'level', "
         "expected a list of values, each string"),
        (
            "embedding_parameters",
            ["levle"],
            "the field 'embedding_parameters' names 'levle', expected parameters: level",
        ),
        (
            "inference_parameters",
            [],
            "the field 'inference_parameters' belongs to stages, but prepare is missing",
        ),
        (
            "image_statistics",
            ["mean"],
            "the field 'image_statistics' is ['mean'], expected a list of values, each one of "
            "intensity_range, robust_range, full_range, bright_objects",
        ),
        (
            "image_statistic",
            ["full_range"],
            "the field 'image_statistic' is unknown, did you mean 'image_statistics'? expected "
            "one of engine, model",
        ),
        ("gpu", {"name": "H200"}, "the field 'gpu' is {'name': 'H200'}, expected name and memory"),
        (
            "gpu",
            {"name": "H200", "memory_bytes": "large"},
            "the field 'gpu': 'memory_bytes' is 'large', expected integer from 1",
        ),
        ("limits", {}, "the field 'limits' is that of the service, expected another name"),
        ("distribution", {}, "the field 'distribution' is that of the service, expected another"),
        ("parameters/level", 0.5, "parameter 'level' has the schema 0.5, expected a mapping"),
        (
            "parameters/level/type",
            "float",
            "parameter 'level' has the type 'float', expected one of number, integer",
        ),
        ("parameters/level/type", _GONE, "parameter 'level' has the type None, expected one of"),
        (
            "parameters/level/minimun",
            0,
            "parameter 'level': keyword 'minimun' with value 0 is unknown, did you mean 'minimum'?",
        ),
        (
            "parameters/level/maximum",
            "1",
            "parameter 'level': keyword 'maximum' is '1', expected number",
        ),
        (
            "parameters/level/default",
            2,
            "the default of parameter 'level' is 2, expected number from 0 to 1",
        ),
        (
            "parameters/level/maximum",
            -1,
            "parameter 'level': minimum is 0, expected at most the maximum, -1",
        ),
        (
            "parameters/level/enum",
            [0.5, "high"],
            "a value in the enum of parameter 'level' is 'high', expected number from 0 to 1",
        ),
        ("parameters/level/description", "", "parameter 'level' has no description, expected one"),
        (
            "parameters/sizes",
            {"type": "array", "items": {"type": "int"}, "description": "x"},
            "parameter 'sizes': keyword 'items' has the type 'int', expected one of number",
        ),
        (
            "parameters/axes",
            {"type": "string", "description": "x"},
            "parameter 'axes' is an argument of the service, expected another name",
        ),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_came_and_what_is_expected(
    path: str, value: Any, problem: str
) -> None:
    with pytest.raises(WrongParameter) as caught:
        check_engine(Described(changed(path, value)), "cells", "courier-cells 1.0")
    assert caught.value.message.startswith(
        f"engine 'cells' of courier-cells 1.0: describe(): {problem}"
    )
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parameters", {"level": {"type": "number", "default": math.nan}}),
        ("versions", {1: "2.0"}),
        ("segmentation_version", np.int64(1)),
        ("image_statistics", ("full_range",)),
    ],
)
def test_a_field_that_is_no_json_is_refused(field: str, value: Any) -> None:
    with pytest.raises(WrongParameter, match=f"has the field '{field}' with .*, expected JSON"):
        check_engine(Described(changed(field, value)), "cells", "courier-cells 1.0")


def test_a_description_that_is_no_dict_or_fails_is_refused() -> None:
    with pytest.raises(WrongParameter, match=r"describe\(\) returned None, expected a dict"):
        check_engine(Described(None), "cells", "courier-cells 1.0")

    class Failing(Described):
        def describe(self) -> Any:
            raise KeyError("weights")

    with pytest.raises(WrongParameter, match=r"describe\(\) failed with KeyError: .*weights"):
        check_engine(Failing(None), "cells", "courier-cells 1.0")


@pytest.mark.parametrize("method", METHODS)
def test_an_engine_without_a_method_is_refused(method: str) -> None:
    engine = Described(DESCRIPTION)
    setattr(engine, method, None)
    with pytest.raises(WrongParameter, match=f"it has no method {method}, expected describe, "):
        check_engine(engine, "cells", "courier-cells 1.0")


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"model_sha256": None},
        {"gpu": None, "model_cache": None, "embedding_bytes": None},
        {"gpu": {"name": "H200", "memory_bytes": 1}, "model_cache": "/models"},
        {"image_statistics": ["robust_range"], "embedding_parameters": ["level"]},
        {"mode": "ais", "tile_shape": [384, 384], "halo": None},
    ],
)
def test_a_right_description_is_accepted_with_further_fields(further: dict[str, Any]) -> None:
    check_engine(Described(DESCRIPTION | further), "cells", "courier-cells 1.0")
    staged = DESCRIPTION | further | {"inference_parameters": ["level"]}
    check_engine(Staged(staged), "cells", "courier-cells 1.0")


def test_stages_come_with_the_names_of_the_parameters_of_inference() -> None:
    with pytest.raises(WrongParameter, match="'inference_parameters' is missing, expected it"):
        check_engine(Staged(DESCRIPTION), "cells", "courier-cells 1.0")


def test_the_methods_are_those_of_the_interfaces() -> None:
    def methods_of(protocol: type) -> set[str]:
        return {name for name in vars(protocol) if not name.startswith("_")}

    assert methods_of(Engine) == set(METHODS)
    assert methods_of(Stages) == set(STAGE_METHODS)


def test_an_engine_of_another_distribution_keeps_its_stages() -> None:
    plugin = Plugin("samcourier.engines", "cells", "cells:CELLS", "courier-cells", "1.0")
    assert has_stages(_WithDistribution(Staged(DESCRIPTION), plugin))  # type: ignore[arg-type]
    assert not has_stages(_WithDistribution(WatershedEngine(), plugin))


def test_build_engine_names_the_distribution_of_a_wrong_description(install: Install) -> None:
    door = """
from samservice.contract.engine_description import EngineDescription
CELLS = EngineDescription(name="cells", summary="cells", build="cells_engine:Cells")
"""
    engine = """
from samservice.engines.watershed import WatershedEngine
class Cells(WatershedEngine):
    def describe(self):
        return super().describe() | {"engine": "cells", "segmentation_version": "3"}
"""
    entry = "[samcourier.engines]\ncells = cells_door:CELLS\n"
    install("courier-cells", entry, cells_door=door, cells_engine=engine)
    with pytest.raises(WrongParameter) as caught:
        build_engine("cells")
    assert caught.value.message == (
        "engine 'cells' of courier-cells 1.0: describe(): the field 'segmentation_version' is '3',"
        " expected integer from 0"
    )


@pytest.mark.parametrize("name", ["watershed"])
def test_a_built_in_engine_describes_itself_rightly(name: str) -> None:
    check_engine(ENGINES.load(name) and build_engine(name), name, "samcourier")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requirements": "torch"}, "requirements are 'torch', expected a tuple of texts for pip"),
        ({"requirements": (1,)}, r"requirements are \(1,\), expected"),
        ({"summary": "a\nb"}, r"summary is 'a\\nb', expected a text of one line"),
        ({"build": None}, "build is None, expected a text"),
        ({"options": {"dark": {"type": "boolean", "defalt": 1}}}, "keyword 'defalt' with value 1"),
        ({"options": {"dark": {"type": "boolean", "default": 1}}}, "default of option 'dark' is 1"),
        ({"options": ["dark"]}, r"the options are \['dark'\], expected a mapping"),
    ],
)
def test_a_wrong_entry_point_is_refused(changes: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"name": "cells", "summary": "cells", "build": "cells:Cells"}
    EngineDescription(**right)
    with pytest.raises(ValueError, match=message):
        EngineDescription(**right | changes)
