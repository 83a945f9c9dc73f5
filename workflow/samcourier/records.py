"""Frozen dataclasses as strict JSON files: whole or absent, and read back or refused."""

from __future__ import annotations

import functools
import json
import math
import os
import types
import typing
import uuid
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

_Record = TypeVar("_Record")


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` as :func:`write_atomic` does, unless it stands there already."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_atomic(path, text)


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
    try:
        return typing.cast(_Record, _decode(record, value))
    except (TypeError, ValueError, OverflowError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is no finite number")
    return number


def _decode(kind: Any, value: Any) -> Any:
    """Return ``value``, parsed from JSON, as the annotated type ``kind``. Raises ValueError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(arguments[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {name: _decode(arguments[1], item) for name, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _decode_fields(kind, value)
    if kind is float and type(value) in (int, float):
        return float(value)
    # A count that 64 bits do not hold is none, and no arithmetic may overflow on it.
    if kind is int and type(value) is int and abs(value) < 1 << 64:
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    raise ValueError(f"{value!r} is not {kind}")


@functools.cache
def _field_kinds(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_fields(kind: Any, value: dict[str, Any]) -> Any:
    kinds = _field_kinds(kind)
    if value.keys() != {each.name for each in fields(kind)}:
        raise ValueError(f"{kind.__name__} has the keys {sorted(value)}")
    return kind(**{name: _decode(kinds[name], item) for name, item in value.items()})
