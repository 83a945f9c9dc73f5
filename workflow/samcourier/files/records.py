"""Frozen dataclasses as strict JSON files: whole or absent, and read back or refused."""

from __future__ import annotations

import functools
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from .atomic import write_atomic

_Record = TypeVar("_Record")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` in one step. Raises ValueError for NaN or infinity, TypeError if no JSON."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the strict JSON value in the file, or None when it is absent or damaged."""
    try:
        return parse_json(path.read_bytes())
    except OSError:
        return None


def write_record(path: Path, schema: str, record: Any) -> None:
    """Write a dataclass that says of which ``schema`` it is. Raises as :func:`write_json`."""
    write_json(path, {"schema": schema} | asdict(record))


def read_record(path: Path, schema: str, kind: type[_Record]) -> _Record | None:
    """Return what :func:`write_record` wrote, None when absent, damaged or of another schema."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("schema", None) != schema:
        return None
    return decode(kind, value)


def parse_json(content: bytes) -> Any:
    """Return the strict JSON value in ``content`` (no NaN, no infinity), or None when damaged."""
    try:
        return json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def decode(record: type[_Record], value: Any) -> _Record | None:
    """Return a JSON object as the dataclass ``record``: every key, no other, each of its type.

    None when it is anything else.
    """
    decoder = _decoder(typing.cast(Any, record))
    try:
        return typing.cast(_Record, decoder(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is no finite number")
    return number


@functools.cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    """Return what makes the annotated type ``kind`` of a value parsed from JSON.

    It raises ValueError for another value. What the type asks for is found out here, once, since
    a report decodes a hundred values an image.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin is types.UnionType:
        known = _decoder(arguments[0])
        return lambda value: None if value is None else known(value)
    if is_dataclass(kind):
        return _fields_decoder(kind)
    if origin is tuple:
        item = _decoder(arguments[0])
        return lambda value: tuple(map(item, _checked(kind, value, isinstance(value, list))))
    if origin is dict:
        item = _decoder(arguments[1])
        return lambda value: {
            name: item(each)
            for name, each in _checked(kind, value, isinstance(value, dict)).items()
        }
    if origin is Literal:
        return lambda value: _checked(kind, value, value in arguments)
    if kind is float:
        return lambda value: float(_checked(kind, value, type(value) in (int, float)))
    if kind is int:
        # A count that 64 bits do not hold is none, and no arithmetic may overflow on it.
        return lambda value: _checked(kind, value, type(value) is int and abs(value) < 1 << 64)
    if kind in (str, bool):
        return lambda value: _checked(kind, value, isinstance(value, kind))
    raise TypeError(f"{kind} is no type of a record")


def _checked(kind: Any, value: Any, is_sound: bool) -> Any:
    if not is_sound:
        raise ValueError(f"{value!r} is not {kind}")
    return value


def _fields_decoder(kind: Any) -> Callable[[Any], Any]:
    kinds = typing.get_type_hints(kind)
    decoders = {each.name: _decoder(kinds[each.name]) for each in fields(kind)}

    def decode_fields(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != decoders.keys():
            raise ValueError(f"{value!r} has not the keys of {kind.__name__}")
        return kind(**{name: decoders[name](item) for name, item in value.items()})

    return decode_fields


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of ``value``, ASCII. Raises :class:`ValueError` at NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")
