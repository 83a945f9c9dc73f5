"""What is asked of a service, held against what it says of itself: one line, naming the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samcourier.errors import ImageUnfit, RequestRefused
from samcourier.results.service_description import ServiceDescription, checked_description
from samcourier.samples.sheet import ImageRow
from samcourier.segmentation.requirements import check_requirements, check_row_requirements
from samservice.contract.parameters import parameter_problems
from samservice.engines.microsam_parameters import PARAMETERS as MICROSAM
from samservice.engines.watershed import PARAMETERS as WATERSHED

DESCRIPTION = ServiceDescription(parameters=WATERSHED)
RUN = "config.parameters (--parameters): "


def row(**parameters: Any) -> ImageRow:
    return ImageRow("cell7", Path("cell7.tif"), parameters=parameters)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"min_area": 5}, "parameter 'min_area' with value 5 is unknown, did you mean "
         "'min_area_px'? expected one of diameter_px, sigma_px, "),
        ({"min_area_px": "five"}, "parameter 'min_area_px' is 'five', expected integer from 0 to "),
        ({"min_area_px": "5.5"}, "parameter 'min_area_px' is '5.5', expected integer from 0 to "),
        ({"sigma_px": 21}, "parameter 'sigma_px' is 21, expected number from 0.0 to 20.0"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named_with_its_place_and_the_accepted_values(
    parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        check_requirements(parameters, DESCRIPTION)
    assert str(refused.value).startswith(RUN + said)
    with pytest.raises(ImageUnfit) as unfit:
        check_row_requirements(row(**parameters), DESCRIPTION)
    assert str(unfit.value).startswith(f"sheet, image cell7, column parameters: {said}")
    assert {refused.value.name, unfit.value.name} == {"WrongParameter"}


@pytest.mark.parametrize(
    ("model", "description", "expected"),
    [
        ("vit_b_lm", ServiceDescription(model="vit_b_lm"), None),
        (None, ServiceDescription(model="vit_b_lm"), None),
        (
            "vit_l_lm",
            ServiceDescription(model="vit_b_lm"),
            "'vit_l_lm', expected 'vit_b_lm', which the service",
        ),
        ("vit_l_lm", ServiceDescription(), "'vit_l_lm', expected None"),
    ],
)
def test_a_row_s_model_is_that_of_the_service_or_the_row_is_refused(
    model: str | None, description: ServiceDescription, expected: str | None
) -> None:
    asked = ImageRow("cell7", Path("cell7.tif"), model=model)
    if expected is None:
        check_row_requirements(asked, description)
        return
    with pytest.raises(ImageUnfit, match=expected) as unfit:
        check_row_requirements(asked, description)
    assert str(unfit.value).startswith("sheet, image cell7, column model: ")


def test_every_slip_of_the_run_has_a_line_and_all_of_a_row_have_one() -> None:
    slips = {"sigma": 1, "min_distance_px": 0.5}
    with pytest.raises(RequestRefused) as refused:
        check_requirements(slips, DESCRIPTION)
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"{RUN}parameter 'sigma'")
    assert second.startswith(f"{RUN}parameter 'min_distance_px' is 0.5")
    with pytest.raises(ImageUnfit, match=r"'sigma' .*; parameter 'min_distance_px'") as unfit:
        check_row_requirements(row(**slips), DESCRIPTION)
    assert "\n" not in str(unfit.value)


@pytest.mark.parametrize("accepted", [WATERSHED, *MICROSAM.values()])
def test_defaults_and_limits_of_every_engine_are_accepted(accepted: dict[str, Any]) -> None:
    for key in ("default", "minimum", "maximum"):
        check_requirements(
            {name: schema[key] for name, schema in accepted.items() if key in schema},
            ServiceDescription(parameters=accepted),
        )


@pytest.mark.parametrize(
    "answer", [{}, {"parameters": None}, {"parameters": ["sigma"]}, {"parameters": {"a": 1}}]
)
def test_a_service_without_parameter_schemas_refuses_by_itself(
    answer: dict[str, Any],
) -> None:
    description = ServiceDescription.of(checked_description(answer))
    check_requirements({"anything": object()}, description)
    check_row_requirements(row(anything=1), description)


def test_a_service_without_parameters_is_named() -> None:
    with pytest.raises(RequestRefused, match="is unknown, expected none"):
        check_requirements({"sigma": 1}, ServiceDescription(parameters={}))


@pytest.mark.parametrize(
    ("schema", "good", "bad", "said"),
    [
        ({"type": "string", "enum": ["a", "b"]}, "a", "c", "one of a, b"),
        ({"type": "array"}, [1], 1, "array"),
        ({"type": "boolean"}, False, 0, "true or false"),
        ({"type": "number", "minimum": 0}, 1e9, float("nan"), "number from 0"),
        ({"type": "integer", "maximum": 3}, -5, 4, "integer to 3"),
        ({}, "anything", True, "value"),
    ],
)
def test_every_kind_of_schema_is_understood(
    schema: dict[str, Any], good: Any, bad: Any, said: str
) -> None:
    assert parameter_problems({"one": good}, {"one": schema}) == []
    (problem,) = parameter_problems({"one": bad}, {"one": schema})
    assert problem == f"parameter 'one' is {bad!r}, expected {said}"
