"""Convert texts to the types of a JSON Schema. Standard library only.

A command line and a cell of a sheet give texts, and Snakemake gives every nested value of
``--config`` as a text. Only a text whose meaning is certain is converted; any other value is
returned as it is, for the check of the schema to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_NULLS = ("null", "~")
#: Integers of a larger magnitude are not exact as a float.
_LARGEST_EXACT = 2**53

Schema = Mapping[str, Any]


def convert(value: Any, schema: Schema, definitions: Mapping[str, Schema] | None = None) -> Any:
    """Return ``value`` in the type of ``schema`` where its meaning is certain, else unchanged.

    Converted are a text that is a number, a boolean or null, and a float without fraction where an
    integer is expected; in lists, tuples and mappings each value. No text is converted for a schema
    with ``exact: true``. ``definitions`` are the schemas that ``$ref`` names.
    """
    definitions = definitions or {}
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("exact"):
        return value
    if "anyOf" in schema:
        return _any_of(value, schema["anyOf"], definitions)
    kind = schema.get("type")
    if isinstance(value, Mapping):
        parts = schema.get("properties", {})
        return {
            name: convert(each, parts[name], definitions) if name in parts else each
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [convert(each, schema.get("items", {}), definitions) for each in value]
    if isinstance(value, str) and kind in ("boolean", "integer", "number", "null"):
        value = _of_text(value, kind)
    if kind == "integer" and isinstance(value, float) and _is_whole(value):
        return int(value)
    return value


def convert_values(values: Mapping[str, Any], accepted: Mapping[str, Schema]) -> dict[str, Any]:
    """Return options or parameters converted by the ``accepted`` schema of each name.

    The text ``null`` becomes None where None is the default.
    """
    return {
        name: _convert_or_null(value, accepted[name]) if name in accepted else value
        for name, value in values.items()
    }


def read_number(text: str) -> int | float | None:
    """Return the number in ``text``, an int for digits alone; None for any other text.

    None also for a number beyond the range of float, for ``inf`` and for ``nan``.
    """
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= 100 else None
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def is_null(value: object) -> bool:
    """Return whether ``value`` is a text that YAML reads as null, ``null`` or ``~``."""
    return isinstance(value, str) and value.strip().lower() in _NULLS


def _convert_or_null(value: Any, schema: Schema) -> Any:
    if schema.get("default", "") is None and is_null(value):
        return None
    return convert(value, schema)


def _any_of(value: Any, branches: Sequence[Schema], definitions: Mapping[str, Schema]) -> Any:
    kinds = [branch.get("type") for branch in branches]
    if "null" in kinds and is_null(value):
        return None
    if isinstance(value, str) and "string" in kinds:
        return value
    for branch in branches:
        converted = convert(value, branch, definitions)
        if converted is not value:
            return converted
    return value


def _of_text(text: str, kind: str) -> Any:
    if kind == "boolean":
        return _BOOLEANS.get(text.strip().lower(), text)
    if kind == "null":
        return None if is_null(text) else text
    number = read_number(text)
    if number is None or (kind == "integer" and not _is_whole(number)):
        return text
    return number


def _is_whole(number: float) -> bool:
    if isinstance(number, int):
        return True
    return number.is_integer() and abs(number) <= _LARGEST_EXACT
