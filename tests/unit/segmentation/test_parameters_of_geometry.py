"""What an image's geometry states -> the parameters that are sent with it, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from samcourier.images.geometry import Geometry
from samcourier.segmentation.prepared import parameters_of_geometry
from samservice.engines.watershed_parameters import PARAMETERS

UM = {"Z": 1.5, "Y": 0.5, "X": 0.5}


@pytest.mark.parametrize(
    ("sizes_um", "axes", "given", "described", "expected"),
    [
        (UM, "ZYX", {}, PARAMETERS, {"z_aspect": 3.0}),
        (UM, "CZYX", {}, PARAMETERS, {"z_aspect": 3.0}),
        (UM | {"Z": 0.1}, "ZYX", {}, PARAMETERS, {"z_aspect": 0.2}),
        (UM | {"Z": 1 / 3}, "ZYX", {}, PARAMETERS, {"z_aspect": 0.666667}),
        (UM | {"Z": 0.5}, "ZYX", {}, PARAMETERS, {}),
        (UM, "YX", {}, PARAMETERS, {}),
        (UM, "ZYX", {"z_aspect": 1.0}, PARAMETERS, {}),
        (UM, "ZYX", {}, {"sigma_px": PARAMETERS["sigma_px"]}, {}),
        (UM, "ZYX", {}, None, {}),
        (UM | {"Z": None}, "ZYX", {}, PARAMETERS, {}),
        (UM | {"X": None}, "ZYX", {}, PARAMETERS, {}),
        (UM | {"X": 0.6}, "ZYX", {}, PARAMETERS, {}),
        (UM | {"Z": 50.0}, "ZYX", {}, PARAMETERS, {}),
    ],
)
def test_a_volume_is_sent_with_the_distance_of_its_planes(
    sizes_um: dict[str, float | None],
    axes: str,
    given: dict[str, Any],
    described: dict[str, Any] | None,
    expected: dict[str, Any],
) -> None:
    letters = axes.replace("C", "")
    geometry = Geometry.in_um(letters, [sizes_um[letter] for letter in letters])
    assert parameters_of_geometry(geometry, axes, given, described) == expected
