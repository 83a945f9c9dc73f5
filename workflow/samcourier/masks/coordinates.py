"""The coordinates of a mask: what its ``multiscales`` state of axes, scale and translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..images.geometry import Geometry

#: A member of ``coordinateTransformations``.
Transformation = Mapping[str, Any]


@dataclass(frozen=True)
class Coordinates:
    """Axes and transformations of a mask as OME-NGFF 0.4 and 0.5 write them.

    Attributes:
        axes: Name, type and unit of each axis.
        level: The transformations of the full-size level.
        common: The transformations of all levels, applied after those of a level.
    """

    axes: tuple[Mapping[str, Any], ...]
    level: tuple[Transformation, ...]
    common: tuple[Transformation, ...] = ()

    @classmethod
    def of(cls, geometry: Geometry) -> Coordinates:
        """Return the coordinates for a geometry; an unknown scale is 1 without a unit."""
        axes = [
            {"name": axis.letter.lower(), "type": "time" if axis.letter == "T" else "space"}
            | ({} if axis.unit is None else {"unit": axis.unit})
            for axis in geometry.axes
        ]
        scale = [1.0 if axis.scale is None else axis.scale for axis in geometry.axes]
        level: list[Transformation] = [{"type": "scale", "scale": scale}]
        if any(axis.translation for axis in geometry.axes):
            translation = [axis.translation or 0.0 for axis in geometry.axes]
            level.append({"type": "translation", "translation": translation})
        return cls(tuple(axes), tuple(level))

    def at_level(self, factors: Sequence[int]) -> list[Transformation]:
        """Return the transformations of a level that has every ``factors``-th pixel of each axis.

        Every level begins with the same pixel, so the translation is that of the full-size level.
        """
        first, *rest = self.level
        if first["type"] != "scale":
            return [{"type": "scale", "scale": [float(each) for each in factors]}, first, *rest]
        scale = [size * factor for size, factor in zip(first["scale"], factors, strict=True)]
        return [{"type": "scale", "scale": scale}, *rest]
