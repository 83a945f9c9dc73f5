"""The geometry that the metadata of an OME-Zarr image states. Standard library only."""

from __future__ import annotations

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
    of the level come first, then those of all levels. If one of them is neither a scale nor a
    translation with numbers, the geometry is unknown. Raises ValueError, TypeError or LookupError
    for metadata that is damaged.
    """
    steps = [
        step
        for holder in (dataset, multiscale)
        for step in holder.get("coordinateTransformations") or []
        if step.get("type") != "identity"
    ]
    if not all(isinstance(step.get(step.get("type")), list) for step in steps):
        return Geometry.unknown(letters)
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
    scale: Fraction | None = None
    translation: Fraction | None = None
    for kind, number in steps:
        value = exact(float(number))
        if kind == "scale":
            scale = value if scale is None else scale * value
            translation = None if translation is None else translation * value
        else:
            translation = value + (translation or 0)
    if unit is not None:
        unit = str(unit)
        unit = (time_unit(unit) if letter == "T" else length_unit(unit)) or unit
    moved = None if not translation else plain_number(translation)
    return known_axis(letter, scale, unit, moved)
