"""An engine is built by the name of its entry point, with the options that it describes."""

from __future__ import annotations

import inspect
import json
import pkgutil
from typing import Any

import pytest

from samcourier.deploy.targets import _requirements
from samcourier.settings.run_settings import ServiceSettings
from samservice.contract.engine_description import ENGINES, describe_engine
from samservice.contract.errors import WrongParameter
from samservice.contract.identity import identity_of
from samservice.engines.base import build_engine
from samservice.engines.watershed import WatershedEngine

from ...installed import Install

DOOR = """
from samservice.contract.engine_description import EngineDescription

CELLS = EngineDescription(
    name="cells",
    summary="the built-in watershed under another name",
    build="cells_engine:build",
    options={"size_px": {"default": 1, "type": "integer", "minimum": 1}},
    requirements=("courier-cells==1.0",),
)
"""
ENGINE = """
from samservice.engines.watershed import WatershedEngine

class CellsEngine(WatershedEngine):
    def describe(self):
        return super().describe() | {"engine": "cells"}

def build(size_px=1):
    engine = CellsEngine()
    engine.size_px = size_px
    return engine
"""


@pytest.fixture
def cells(install: Install) -> None:
    entry = "[samcourier.engines]\ncells = cells_door:CELLS\n"
    install("courier-cells", entry, cells_door=DOOR, cells_engine=ENGINE)


@pytest.mark.parametrize("name", ENGINES.built_in)
def test_the_options_described_are_those_that_the_engine_takes(name: str) -> None:
    description = describe_engine(name)
    make = pkgutil.resolve_name(description.build)
    taken = {
        option: parameter.default
        for option, parameter in inspect.signature(make).parameters.items()
    }
    assert {option: each["default"] for option, each in description.options.items()} == taken
    assert all(each["description"] for each in description.options.values())
    assert json.loads(json.dumps(description.options)) == description.options


def test_an_engine_of_another_distribution_is_built_with_its_options(cells: None) -> None:
    engine: Any = build_engine("cells", {"size_px": 3})
    assert engine.size_px == 3
    assert build_engine("cells").check_parameters({"sigma_px": 2}) is None


def test_its_description_and_identity_name_its_distribution(cells: None) -> None:
    described, plain = build_engine("cells").describe(), WatershedEngine().describe()
    assert described.pop("versions") == plain.pop("versions") | {"courier-cells": "1.0"}
    distribution = {"name": "courier-cells", "version": "1.0"}
    assert described == plain | {"engine": "cells", "distribution": distribution}
    assert identity_of(described)["distribution"] == distribution
    assert "distribution" not in identity_of(plain)


def test_a_distribution_has_one_name_however_it_is_spelt(install: Install) -> None:
    entry = "[samcourier.engines]\ncells = cells_door:CELLS\n"
    install("Courier._Cells", entry, cells_door=DOOR, cells_engine=ENGINE)
    assert build_engine("cells").describe()["distribution"]["name"] == "courier-cells"


def test_a_built_in_engine_describes_itself_as_ever() -> None:
    assert build_engine("watershed").describe() == WatershedEngine().describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": 3},
            "engine cells: option 'size' with value 3 is unknown, did you mean 'size_px'? "
            "expected one of size_px",
        ),
        ({"size_px": 0}, "engine cells: option 'size_px' is 0, expected integer from 1"),
        ({"size_px": None}, "engine cells: option 'size_px' is None, expected integer from 1"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_loaded(
    cells: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongParameter) as caught:
        build_engine("cells", options)
    assert caught.value.message == message


@pytest.mark.parametrize("schema", ["{}", "{'type': 'bool'}", "{'type': None, 'default': 1}"])
def test_an_option_without_a_type_is_refused_with_its_distribution(
    install: Install, schema: str
) -> None:
    entry = "[samcourier.engines]\ncells = cells_door:CELLS\n"
    door = DOOR.replace('{"default": 1, "type": "integer", "minimum": 1}', schema)
    install("courier-cells", entry, cells_door=door, cells_engine=ENGINE)
    with pytest.raises(WrongParameter, match=r"courier-cells 1\.0 .*option 'size_px' has the type"):
        build_engine("cells", {"size_px": 3})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("trust_checkpoint", "false", "true or false"),
        ("trust_checkpoint", 1, "true or false"),
        ("trust_checkpoint", None, "true or false"),
        ("tile_shape", [384], "a list of 2 values, each integer from 0"),
        ("tile_shape", ["384", "384"], "a list of 2 values, each integer from 0"),
        ("halo", [64, 64, 64], "a list of 2 values, each integer from 0"),
        ("model", 7, "string"),
    ],
)
def test_the_service_takes_an_option_in_its_type_alone(
    option: str, value: Any, expected: str
) -> None:
    with pytest.raises(WrongParameter) as caught:
        build_engine("microsam", {option: value})
    assert caught.value.message == (
        f"engine microsam: option {option!r} is {value!r}, expected {expected}"
    )


@pytest.mark.parametrize(
    ("options", "known"), [({"mode": "amg"}, True), ({"mode": "auto"}, False), ({}, False)]
)
def test_micro_sam_s_parameters_are_known_for_a_named_mode(
    options: dict[str, Any], known: bool
) -> None:
    description = describe_engine("microsam")
    assert description.parameters is not None
    assert (description.parameters(options) is not None) == known


def test_an_option_that_is_none_by_default_may_be_none() -> None:
    """It goes on to the engine, which misses micro-sam in this environment or loads nothing."""
    with pytest.raises(WrongParameter, match=r"checkpoint 'nowhere\.pt'|cannot be built"):
        build_engine("microsam", {"device": None, "halo": None, "checkpoint": "nowhere.pt"})


def test_an_engine_whose_libraries_are_missing_says_what_to_install(install: Install) -> None:
    entry = "[samcourier.engines]\ncells = cells_door:CELLS\n"
    install("courier-cells", entry, cells_door=DOOR, cells_engine="import no_such_library")
    with pytest.raises(WrongParameter) as caught:
        build_engine("cells")
    assert caught.value.message == (
        "engine 'cells' of courier-cells 1.0 cannot be imported (No module named"
        " 'no_such_library'), expected courier-cells==1.0 to be installed"
    )


def test_a_worker_is_told_what_to_install_for_the_engine(cells: None) -> None:
    assert _requirements("cells") == ("courier-cells==1.0",)
    assert _requirements(ServiceSettings().engine) == ("scikit-image>=0.24",)
    assert _requirements("known-on-the-worker-alone") == ()
