"""Scales and translations of OME-Zarr metadata -> geometry, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from samcourier.images.geometry import AxisGeometry
from samcourier.images.readers.zarr_geometry import zarr_geometry


def scale(*numbers: Any) -> dict[str, Any]:
    return {"type": "scale", "scale": list(numbers)}


def translation(*numbers: Any) -> dict[str, Any]:
    return {"type": "translation", "translation": list(numbers)}


@pytest.mark.parametrize(
    ("level", "common", "factor", "offset"),
    [
        ([scale(0.5)], [], 0.5, None),
        ([scale(0.5)], [scale(3)], 1.5, None),
        ([scale(0.1), scale(3)], [], 0.3, None),
        ([scale(0.5), translation(10)], [], 0.5, 10.0),
        ([translation(10), scale(0.5)], [], 0.5, 5.0),
        ([scale(0.5), translation(10)], [scale(2), translation(1)], 1.0, 21.0),
        ([translation(10)], [], 1.0, 10.0),
        ([{"type": "identity"}], [], 1.0, None),
        ([], [], None, None),
        ([{"type": "scale", "path": "numbers"}], [], None, None),
        ([{"type": "rotation", "rotation": [[1]]}], [scale(2)], None, None),
        ([scale(0)], [], None, None),
        ([scale(-0.5)], [], None, None),
        ([scale(float("nan"))], [], None, None),
        ([scale(float("inf"))], [], None, None),
        ([scale("0.5")], [], 0.5, None),
    ],
)
def test_the_transformations_of_a_level_become_scale_and_translation(
    level: list[Any], common: list[Any], factor: float | None, offset: float | None
) -> None:
    multiscale = {"coordinateTransformations": common}
    axes = [{"name": "x", "unit": "micrometer"}]
    geometry = zarr_geometry("X", axes, multiscale, {"coordinateTransformations": level})
    unit = None if factor is None and offset is None else "micrometer"
    assert geometry.axes == (AxisGeometry("X", unit, factor, offset),)


@pytest.mark.parametrize(
    "level", [[scale()], [scale(1, 2)], [scale("half")], [scale(None)], [translation(1, 2)]]
)
def test_damaged_transformations_are_no_silent_loss(level: list[Any]) -> None:
    axes = [{"name": "x", "unit": "micrometer"}]
    with pytest.raises((ValueError, TypeError, LookupError)):
        zarr_geometry("X", axes, {}, {"coordinateTransformations": level})


@pytest.mark.parametrize(
    ("letter", "unit", "named"),
    [
        ("X", "micrometer", "micrometer"),
        ("X", "µm", "micrometer"),
        ("X", "Nanometer", "nanometer"),
        ("X", "furlong", "furlong"),
        ("T", "s", "second"),
        ("T", "millisecond", "millisecond"),
        ("X", None, None),
    ],
)
def test_a_known_unit_gets_its_name_and_any_other_stays(
    letter: str, unit: str | None, named: str | None
) -> None:
    axes = [{"name": letter.lower()} | ({"unit": unit} if unit else {})]
    geometry = zarr_geometry(letter, axes, {}, {"coordinateTransformations": [scale(2)]})
    assert geometry.axes == (AxisGeometry(letter, named, 2.0),)
