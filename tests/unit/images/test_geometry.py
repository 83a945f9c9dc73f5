"""Units, sizes and the sheet's column ``pixel_size_um``, as tables."""

from __future__ import annotations

import pytest

from samcourier.images.geometry import (
    AxisGeometry,
    Geometry,
    SheetSize,
    format_sheet_size,
    known_axis,
    measured_axis,
    parse_sheet_size,
    plain_number,
    renamed,
    sheet_size,
    sizes_of_sheet,
)
from samcourier.images.units import length_unit, time_unit


@pytest.mark.parametrize(
    ("text", "unit", "size_um_of_300"),
    [
        ("nm", "nanometer", 0.3),
        ("nanometer", "nanometer", 0.3),
        ("Nanometres", "nanometer", 0.3),
        ("µm", "micrometer", 300.0),
        ("\u03bcm", "micrometer", 300.0),
        ("um", "micrometer", 300.0),
        ("\\u00B5m", "micrometer", 300.0),
        ("Â\u00b5m", "micrometer", 300.0),
        ("micron", "micrometer", 300.0),
        ("Microns", "micrometer", 300.0),
        (" micrometre ", "micrometer", 300.0),
        ("pm", "picometer", 0.0003),
        ("mm", "millimeter", 300_000.0),
        ("Mm", "megameter", 3e14),
        ("cm", "centimeter", 3_000_000.0),
        ("m", "meter", 3e8),
        ("Å", "angstrom", 0.03),
        ("\u212b", "angstrom", 0.03),
        ("in", "inch", 7_620_000.0),
        ("inches", "inch", 7_620_000.0),
        ("ft", "foot", 91_440_000.0),
        ("pixel", None, None),
        ("pixels", None, None),
        ("reference frame", None, None),
        ("UM", None, None),
        ("", None, None),
    ],
)
def test_a_unit_of_length_has_one_name_and_an_exact_size(
    text: str, unit: str | None, size_um_of_300: float | None
) -> None:
    assert length_unit(text) == unit
    assert measured_axis("X", 300, unit).size_um == size_um_of_300


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *((each, "micrometer") for each in ("UM", "Um", "MICRON", "µM", "\\u00B5M", "microns")),
        *((each, "nanometer") for each in ("NM", "Nm", "nm")),
        *((each, "millimeter") for each in ("MM", "Mm", "mm")),
        *((each, "inch") for each in ("IN", "Inch", "INCHES")),
        *((each, None) for each in ("Pixel", "PIXELS", "", "unit", "blob")),
    ],
)
def test_users_of_imagej_type_units_in_any_case(text: str, unit: str | None) -> None:
    assert length_unit(text, any_case=True) == unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("s", "second"), ("sec", "second"), ("Seconds", "second"), ("ms", "millisecond"),
        ("µs", "microsecond"), ("min", "minute"), ("h", "hour"), ("days", "day"),
        ("frame", None), ("", None), ("um", None),
    ],
)  # fmt: skip
def test_a_unit_of_time_has_one_name(text: str, unit: str | None) -> None:
    assert time_unit(text) == unit


@pytest.mark.parametrize(
    ("number", "plain"),
    [
        (0.1 + 0.2, 0.3),
        (0.30000000000000004, 0.3),
        (0.65, 0.65),
        (0.32499998807907104, 0.32499998807907104),
        (1 / 3, 1 / 3),
        (1e-12, 1e-12),
        (20_000_000.0, 20_000_000.0),
    ],
)
def test_only_the_digits_of_binary_rounding_are_left_out(number: float, plain: float) -> None:
    assert plain_number(number) == plain


@pytest.mark.parametrize(
    "size", [None, 0, -1, "0", "-0.5", "nan", "inf", "1e999", "1/3", "deep", "1e-999999999", ""]
)
def test_a_value_that_is_not_a_length_is_unknown(size: object) -> None:
    assert measured_axis("X", size, "micrometer") == AxisGeometry("X")


def test_a_unit_that_ngff_does_not_name_becomes_micrometres() -> None:
    assert known_axis("X", 10.0, "thou", 1.0) == AxisGeometry("X", "micrometer", 254.0, 25.4)
    assert known_axis("X", 2.0, "furlong") == AxisGeometry("X", "furlong", 2.0)
    assert known_axis("X", 2.0, "furlong").size_um is None


@pytest.mark.parametrize(
    ("cell", "size", "written", "sizes_um"),
    [
        ("0.65", 0.65, "0.65", {"Y": 0.65, "X": 0.65}),
        ("0,65", 0.65, "0.65", {"Y": 0.65, "X": 0.65}),
        (",5", 0.5, "0.5", {"Y": 0.5, "X": 0.5}),
        ("6.5e-1", 0.65, "0.65", {"Y": 0.65, "X": 0.65}),
        ("0.5 0.5", 0.5, "0.5", {"Y": 0.5, "X": 0.5}),
        ("1.3 0.65", (1.3, 0.65), "1.3 0.65", {"Y": 1.3, "X": 0.65}),
        ("1,3  0,65", (1.3, 0.65), "1.3 0.65", {"Y": 1.3, "X": 0.65}),
        ("2 1 0.5", (2.0, 1.0, 0.5), "2.0 1.0 0.5", {"Z": 2.0, "Y": 1.0, "X": 0.5}),
        ("1 1 1", (1.0, 1.0, 1.0), "1.0 1.0 1.0", {"Z": 1.0, "Y": 1.0, "X": 1.0}),
    ],
)
def test_the_sheet_has_one_two_or_three_sizes(
    cell: str, size: SheetSize, written: str, sizes_um: dict[str, float]
) -> None:
    assert parse_sheet_size(cell) == size
    assert format_sheet_size(size) == written
    assert parse_sheet_size(written) == size
    assert sizes_of_sheet(size) == sizes_um


@pytest.mark.parametrize(
    "cell",
    ["0", "-1", "nan", "inf", "1 2 3 4", "1 0", "0.65,0.65", "1;2", "0.65um", "1_0", "1e999"],
)
def test_any_other_cell_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match=r"expected a positive number .* y x, or z y x"):
        parse_sheet_size(cell)


NANOMETRES = Geometry(
    (
        AxisGeometry("Z", "nanometer", 2000.0),
        AxisGeometry("Y", "nanometer", 650.0, -20_500.0),
        AxisGeometry("X", "nanometer", 650.0),
    )
)


def test_the_sheet_overrides_an_axis_unless_the_file_has_the_same_size() -> None:
    assert NANOMETRES.with_sizes_um(sizes_of_sheet(0.65)) == NANOMETRES
    changed = NANOMETRES.with_sizes_um(sizes_of_sheet((1.3, 0.65)))
    assert changed.axis("Z") == NANOMETRES.axis("Z")
    assert changed.axis("Y") == AxisGeometry("Y", "micrometer", 1.3, -20.5)
    assert changed.axis("X") == NANOMETRES.axis("X")


def test_a_position_without_a_unit_is_unknown_when_the_sheet_gives_micrometres() -> None:
    without_unit = Geometry((AxisGeometry("X", None, 650.0, 5.0),))
    assert without_unit.with_sizes_um({"X": 0.5}).axes == (AxisGeometry("X", "micrometer", 0.5),)


def test_a_part_begins_where_its_first_pixel_is() -> None:
    begun = NANOMETRES.beginning_at({"Z": 2, "Y": 10})
    assert begun.axis("Z").translation == 4000.0
    assert begun.axis("Y").translation == -14_000.0
    assert begun.axis("X") == NANOMETRES.axis("X")
    assert Geometry.unknown("Z").beginning_at({"Z": 2}).axes == (
        AxisGeometry("Z", None, None, 2.0),
    )


@pytest.mark.parametrize(
    ("own", "letters", "scales"),
    [
        ("YX", "YX", (1.3, 0.65)),
        ("YX", "XY", (1.3, 0.65)),
        ("QYX", "ZYX", (2.0, 1.3, 0.65)),
        ("TYX", "ZYX", (2.0, 1.3, 0.65)),
        ("ZYX", "TYX", (60.0, 1.3, 0.65)),
        ("YXS", "YXC", (1.3, 0.65, None)),
        ("TZYX", "ZTYX", (None, None, 1.3, 0.65)),
    ],
)
def test_a_scale_stays_with_its_dimension_when_the_sheet_names_the_axes(
    own: str, letters: str, scales: tuple[float | None, ...]
) -> None:
    stated = Geometry(
        (
            AxisGeometry("T", "second", 60.0),
            *Geometry.in_um("ZYX", (2.0, 1.3, 0.65)).axes,
        )
    )
    geometry = renamed(stated, own, letters)
    assert geometry.letters == letters
    assert tuple(axis.scale for axis in geometry.axes) == scales


def test_a_sheet_gets_both_sizes_if_they_differ_and_none_if_one_is_unknown() -> None:
    assert sheet_size(Geometry.in_um("YX", (0.5, 0.5))) == 0.5
    assert sheet_size(Geometry.in_um("YX", (1.0, 0.5))) == (1.0, 0.5)
    assert sheet_size(Geometry.in_um("YX", (None, 0.5))) is None
    assert sheet_size(Geometry.in_um("ZYX", (2.0, 0.5, 0.5))) == 0.5
