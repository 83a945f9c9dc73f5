"""The geometry that the metadata of an OME-Zarr image states. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ..geometry import AxisGeometry, Geometry, exact, known_axis, plain_number
from ..units import length_unit, time_unit


def zarr_geometry(
    letters: str,
    axes: Sequence[Mapping[str, Any]],
    multiscale: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> Geometry:
    """Return the geometry of one level, ``dataset``, of an image.

    ``axes`` are those of ``multiscale``, and ``letters`` has a letter for each. The transformations
    of the level come first, then those of all levels. If there is none, or one that is no identity,
    scale or translation with numbers, scale and translation are unknown. Raises ValueError,
    TypeError or LookupError for metadata that is damaged.
    """
    steps = [
        step
        for holder in (dataset, multiscale)
        for step in holder.get("coordinateTransformations") or []
    ]
    steps = [
        {"type": "scale", "scale": [1.0] * len(letters)} if step.get("type") == "identity" else step
        for step in steps
    ]
    if not all(
        step.get("type") in ("scale", "translation") and isinstance(step.get(step["type"]), list)
        for step in steps
    ):
        steps = []
    for step in steps:
        if len(step[step["type"]]) != len(letters):
            count = len(step[step["type"]])
            raise ValueError(f"a {step['type']} of {count} numbers for {len(letters)} axes")
    return Geometry(
        tuple(
            _axis(
                letter, axis.get("unit"), [(step["type"], step[step["type"]][at]) for step in steps]
            )
            for at, (letter, axis) in enumerate(zip(letters, axes, strict=True))
        )
    )


def _axis(letter: str, unit: Any, steps: Sequence[tuple[str, Any]]) -> AxisGeometry:
    """Return the geometry along one axis, of which ``steps`` has the scales and translations."""
    scale, translation = Fraction(1), Fraction(0)
    for kind, number in steps:
        if not math.isfinite(float(number)):
            return AxisGeometry(letter)
        value = exact(float(number))
        if kind == "scale":
            scale, translation = scale * value, translation * value
        else:
            translation += value
    if unit is not None:
        unit = str(unit)
        unit = (time_unit(unit) if letter == "T" else length_unit(unit)) or unit
    moved = plain_number(translation) if translation else None
    return known_axis(letter, scale if steps else None, unit, moved)
