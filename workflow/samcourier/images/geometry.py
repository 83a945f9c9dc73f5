"""The geometry of an image: unit, scale and translation along its axes. Standard library only.

A reader makes it from what the file states. It is then carried to the mask, its labels, tables and
polygons. What the file does not state is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .units import MICROMETER, UM_PER_LENGTH, um_per

#: The sheet's ``pixel_size_um``: along y and x, or one number each for y x, or for z y x.
SheetSize = float | tuple[float, ...]
SHEET_SIZE_RULE = (
    "a positive number of micrometres, or two or three of them separated by spaces: y x, or z y x"
)
_NUMBER = re.compile(r"(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class AxisGeometry:
    """The geometry along one axis.

    Attributes:
        letter: T, C, Z, Y or X.
        unit: Name of the unit, by OME-NGFF where it has one; None if the file has none.
        scale: Distance of two neighbouring pixels in ``unit``; None if unknown.
        translation: Position of the first pixel in ``unit``; None if the file has none.
    """

    letter: str
    unit: str | None = None
    scale: float | None = None
    translation: float | None = None

    @property
    def size_um(self) -> float | None:
        """The scale in micrometres, None if it or its unit is not known."""
        return in_um(self.scale, self.unit)

    @property
    def translation_um(self) -> float | None:
        """The translation in micrometres, None if the unit is not known."""
        return in_um(self.translation or 0.0, self.unit)

    def beginning_at(self, first: int) -> AxisGeometry:
        """Return the geometry of a part that begins with the pixel ``first``."""
        if first == 0:
            return self
        step = 1.0 if self.scale is None else self.scale
        moved = exact(self.translation or 0.0) + first * exact(step)
        return replace(self, translation=plain_number(moved))

    def with_size_um(self, size_um: float) -> AxisGeometry:
        """Return the geometry with another scale; the same one if it has this size already."""
        if self.size_um == size_um:
            return self
        moved = None if self.translation is None else self.translation_um
        return AxisGeometry(self.letter, MICROMETER, size_um, moved)


@dataclass(frozen=True)
class Geometry:
    """The geometry along some axes, each letter once."""

    axes: tuple[AxisGeometry, ...] = ()

    @classmethod
    def unknown(cls, letters: str) -> Geometry:
        """Return a geometry of which nothing but the axes is known."""
        return cls(tuple(AxisGeometry(letter) for letter in letters))

    @classmethod
    def in_um(cls, letters: str, sizes_um: Sequence[float | None]) -> Geometry:
        """Return a geometry from one pixel size for each of ``letters``, None if unknown."""
        return cls(
            tuple(
                AxisGeometry(letter, None if size is None else MICROMETER, size)
                for letter, size in zip(letters, sizes_um, strict=True)
            )
        )

    @property
    def letters(self) -> str:
        """The letters of the axes in order."""
        return "".join(axis.letter for axis in self.axes)

    def axis(self, letter: str) -> AxisGeometry:
        """Return the geometry along one axis, an unknown one if there is no such axis."""
        return next((axis for axis in self.axes if axis.letter == letter), AxisGeometry(letter))

    def size_um(self, letter: str) -> float | None:
        """Return the pixel size along one axis in micrometres, None if unknown."""
        return self.axis(letter).size_um

    def sizes_um(self, letters: str) -> tuple[float | None, ...]:
        """Return :meth:`size_um` of each of ``letters``."""
        return tuple(self.size_um(letter) for letter in letters)

    def pixel_um(self, letters: str) -> Fraction | None:
        """Return the area or volume of a pixel along ``letters``, in µm² or µm³.

        It is exact, and None if a size is not known.
        """
        sizes = self.sizes_um(letters)
        if None in sizes:
            return None
        return math.prod((exact(size) for size in sizes if size is not None), start=Fraction(1))

    def along(self, letters: str) -> Geometry:
        """Return the geometry along ``letters`` in this order."""
        return Geometry(tuple(self.axis(letter) for letter in letters))

    def with_sizes_um(self, sizes_um: Mapping[str, float]) -> Geometry:
        """Return the geometry with other pixel sizes along the axes in ``sizes_um``."""
        return Geometry(
            tuple(
                axis.with_size_um(sizes_um[axis.letter]) if axis.letter in sizes_um else axis
                for axis in self.axes
            )
        )

    def beginning_at(self, first: Mapping[str, int]) -> Geometry:
        """Return the geometry of a part that begins with the pixels ``first``, by axis."""
        return Geometry(tuple(axis.beginning_at(first.get(axis.letter, 0)) for axis in self.axes))

    def record(self) -> list[dict[str, Any]]:
        """Return the geometry as JSON values: axis, unit, scale and translation of each axis."""
        return [
            {
                "axis": axis.letter.lower(),
                "unit": axis.unit,
                "scale": axis.scale,
                "translation": axis.translation,
            }
            for axis in self.axes
        ]


def renamed(geometry: Geometry, own_letters: str, letters: str) -> Geometry:
    """Return the geometry of a file whose axes ``own_letters`` the sheet calls ``letters``.

    The geometry belongs to a dimension of the file, so a y that the sheet calls x keeps its scale.
    A dimension that was no length gets what the file states for the new letter, if anything:
    ImageJ, for example, states a z spacing for stacks of unknown axes.
    """
    axes = []
    for own, letter in zip(own_letters, letters, strict=True):
        if own != letter and {own, letter} <= set("ZYX"):
            axes.append(replace(geometry.axis(own), letter=letter))
        elif own == letter or letter not in own_letters:
            axes.append(geometry.axis(letter))
        else:
            axes.append(AxisGeometry(letter))
    return Geometry(tuple(axes))


def known_axis(
    letter: str, scale: Fraction | float | None, unit: str | None, translation: float | None = None
) -> AxisGeometry:
    """Return the geometry along an axis as a file states it.

    A scale that is not positive and finite is unknown, and then so is a unit without translation.
    A length in a unit that OME-NGFF does not name is converted to micrometres.
    """
    value = None if scale is None or not math.isfinite(scale) or scale <= 0 else exact(scale)
    factor = um_per(unit)
    if factor is not None and unit not in UM_PER_LENGTH:
        unit = MICROMETER
        value = None if value is None else value * factor
        translation = None if translation is None else plain_number(exact(translation) * factor)
    if value is None and translation is None:
        return AxisGeometry(letter)
    return AxisGeometry(letter, unit, None if value is None else plain_number(value), translation)


def measured_axis(letter: str, size: Any, unit: str | None) -> AxisGeometry:
    """Return the geometry along an axis from a size in a unit as ``units`` names it.

    ``size`` is a number, or the text of one. A size without a known unit is unknown.
    """
    return known_axis(letter, None if unit is None else _number(size), unit)


def in_um(length: float | None, unit: str | None) -> float | None:
    """Return a length in micrometres, None if it is unknown or ``unit`` is no length."""
    factor = um_per(unit)
    if length is None or factor is None:
        return None
    return plain_number(exact(length) * factor)


def exact(value: Fraction | float) -> Fraction:
    """Return a number as the decimal fraction that Python prints: 0.1 is 1/10."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def plain_number(value: Fraction | float) -> float:
    """Return a number without the digits of binary rounding: 0.30000000000000004 becomes 0.3."""
    number = float(value)
    short = float(f"{number:.15g}")
    return short if len(repr(short)) + 2 < len(repr(number)) else number


def parse_sheet_size(text: str) -> SheetSize:
    """Return the ``pixel_size_um`` of a sheet; equal sizes along y and x are one number.

    A comma is a decimal point. Raises ValueError with :data:`SHEET_SIZE_RULE` for any other text.
    """
    parts = text.split()
    if not 1 <= len(parts) <= 3 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"{text!r}, expected {SHEET_SIZE_RULE}")
    sizes = tuple(float(part.replace(",", ".")) for part in parts)
    if not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"{text!r}, expected {SHEET_SIZE_RULE}")
    return sizes[0] if len(set(sizes)) == 1 and len(sizes) < 3 else sizes


def format_sheet_size(size: SheetSize) -> str:
    """Return the text that :func:`parse_sheet_size` reads as ``size``."""
    return " ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def sizes_of_sheet(size: SheetSize | None) -> dict[str, float]:
    """Return the pixel size in micrometres along each axis for which the sheet has one."""
    if size is None:
        return {}
    sizes = size if isinstance(size, tuple) else (size, size)
    return dict(zip("ZYX"[-len(sizes) :], sizes, strict=True))


def sheet_size(geometry: Geometry) -> SheetSize | None:
    """Return the ``pixel_size_um`` for a sheet: along y and x, None unless both are known."""
    y_um, x_um = geometry.sizes_um("YX")
    if y_um is None or x_um is None:
        return None
    return x_um if y_um == x_um else (y_um, x_um)


def _number(size: Any) -> Fraction | float | None:
    """Return a size of a file's metadata as a number, None if it is none."""
    if isinstance(size, Fraction):
        return size
    try:
        return float(size)
    except (TypeError, ValueError, OverflowError):
        return None
