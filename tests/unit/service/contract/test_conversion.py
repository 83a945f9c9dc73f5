"""A text becomes the value that it certainly means, and nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from samservice.contract.conversion import convert, convert_values, read_number

BOOLEAN, INTEGER, NUMBER, TEXT = (
    {"type": each} for each in ("boolean", "integer", "number", "string")
)


@pytest.mark.parametrize(
    ("schema", "given", "expected"),
    [
        (BOOLEAN, "false", False),
        (BOOLEAN, "False", False),
        (BOOLEAN, "TRUE", True),
        (BOOLEAN, " true ", True),
        (BOOLEAN, "no", "no"),
        (BOOLEAN, "0", "0"),
        (BOOLEAN, 0, 0),
        (BOOLEAN, "", ""),
        (INTEGER, "384", 384),
        (INTEGER, "-7", -7),
        (INTEGER, "+7", 7),
        (INTEGER, "007", 7),
        (INTEGER, "4.0", 4),
        (INTEGER, "1e3", 1000),
        (INTEGER, "1E+03", 1000),
        (INTEGER, 4.0, 4),
        (INTEGER, 1e300, 1e300),
        (INTEGER, 4.5, 4.5),
        (INTEGER, "4.5", "4.5"),
        (INTEGER, "0x10", "0x10"),
        (INTEGER, "1_000", "1_000"),
        (INTEGER, "1,000", "1,000"),
        (INTEGER, "٣", "٣"),
        (INTEGER, "", ""),
        (INTEGER, True, True),
        (INTEGER, math.inf, math.inf),
        (NUMBER, "0.5", 0.5),
        (NUMBER, ".5", 0.5),
        (NUMBER, "3", 3),
        (NUMBER, "3.", 3.0),
        (NUMBER, 3.0, 3.0),
        (NUMBER, "2.5e-1", 0.25),
        (NUMBER, "0,5", "0,5"),
        (NUMBER, "nan", "nan"),
        (NUMBER, "inf", "inf"),
        (NUMBER, "1e999", "1e999"),
        (NUMBER, "1.2.3", "1.2.3"),
        (TEXT, "384", "384"),
        (TEXT, 384, 384),
        (TEXT, "null", "null"),
        ({"anyOf": [TEXT, {"type": "null"}]}, "null", None),
        ({"anyOf": [TEXT, {"type": "null"}]}, "7", "7"),
        ({"anyOf": [INTEGER, {"type": "null"}]}, "7", 7),
        ({"anyOf": [INTEGER, {"type": "null"}]}, "~", None),
        ({"anyOf": [{"type": "array", "items": INTEGER}, {"type": "null"}]}, ["7", 8.0], [7, 8]),
        ({"type": "array", "items": INTEGER}, ("384", "x"), [384, "x"]),
        ({"type": "array"}, ["384"], ["384"]),
        ({"properties": {"a": INTEGER}}, {"a": "1", "b": "2"}, {"a": 1, "b": "2"}),
        ({"$ref": "#/$defs/Size"}, "12", 12),
        ({"type": "boolean", "exact": True}, "false", "false"),
        ({}, "12", "12"),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_is_converted_where_its_meaning_is_certain(
    schema: dict[str, Any], given: Any, expected: Any
) -> None:
    found = convert(given, schema, {"Size": INTEGER})
    assert found == expected
    assert type(found) is type(expected)


def test_nothing_is_changed_in_what_was_given() -> None:
    given = {"tile": ["384", "384"]}
    assert convert_values(given, {"tile": {"type": "array", "items": INTEGER}}) == {
        "tile": [384, 384]
    }
    assert given == {"tile": ["384", "384"]}


def test_null_is_a_value_where_it_is_the_default() -> None:
    accepted = {"device": {"default": None, "type": "string"}, "mode": {"default": "a", **TEXT}}
    assert convert_values({"device": "null", "mode": "null", "x": "null"}, accepted) == {
        "device": None,
        "mode": "null",
        "x": "null",
    }


def test_a_number_of_any_length_is_read_or_refused_at_once() -> None:
    assert read_number("9" * 100_000) is None
    assert read_number("12345678901234567890") == 12345678901234567890
