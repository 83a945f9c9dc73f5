"""The parameters of the engine cellpose, without Cellpose itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from samservice.contract.engine_description import describe_engine
from samservice.contract.errors import WrongParameter
from samservice.engines.cellpose_parameters import (
    NORMALIZE,
    OF_THE_MODEL,
    PARAMETERS,
    check_parameters,
    complete,
)

PAGE = (Path(__file__).parents[4] / "docs/cellpose.md").read_text()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_page_has_each_parameter_with_its_default_and_description(name: str) -> None:
    schema = PARAMETERS[name]
    (row,) = re.findall(rf"^\| `{name}` \| (.*?) \| .*? \| (.*) \|$", PAGE, re.MULTILINE)
    default = schema["default"]
    words = {True: "true", False: "false"}
    shown = words[default] if isinstance(default, bool) else "{}" if default == {} else default
    assert row[0] == (f"{shown:g}" if isinstance(shown, float | int) else shown)
    assert row[1] == schema["description"]


def test_a_config_is_checked_before_the_engine_is_built() -> None:
    description = describe_engine("cellpose")
    assert description.parameters is not None
    assert description.parameters({}) == PARAMETERS
    for option in description.options:
        assert f"| `{option}` |" in PAGE
    assert set(OF_THE_MODEL) < set(PARAMETERS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"diameter": -1}, "'diameter' is -1, expected number from 0"),
        ({"normalize": {"percentil": [1, 99]}}, "the key 'percentil', expected some of lowhigh"),
        ({"normalize": {"percentile": [99, 1]}}, "percentile [99, 1], expected two increasing"),
        ({"normalize": {"lowhigh": 5}}, "lowhigh 5, expected two increasing numbers"),
        ({"normalize": True}, "'normalize' is True"),
        ({"channels": [0, 0]}, "'channels' with value [0, 0] is unknown"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongParameter) as caught:
        check_parameters(parameters)
    assert message in caught.value.message


def test_a_call_gets_every_parameter_and_a_dictionary_of_its_own() -> None:
    given = complete({"niter": 5, "normalize": {"percentile": [1, 99]}})
    assert given.keys() == PARAMETERS.keys() and given["niter"] == 5
    assert given["normalize"] == {**NORMALIZE, "percentile": [1, 99]}
    given["normalize"]["invert"] = True
    assert complete({})["normalize"] == NORMALIZE
