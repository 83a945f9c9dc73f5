"""Write records, which are msgspec Structs, as strict JSON files, and read them back.

A file has every field of its record, also those with a default in Python, and no other key. The
``json`` module parses the text, because msgspec refuses lone surrogates, which the path of a file
has if its name is not UTF-8.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import Meta, Struct

from .strict_json import read_json, write_json

_Record = TypeVar("_Record", bound=Struct)

#: A record with an integer outside counts as damaged: arithmetic with it could overflow.
_LOWEST, _HIGHEST = Meta(ge=-(1 << 63)), Meta(le=(1 << 63) - 1)


def write_record(path: Path, record: Struct, schema: str | None = None) -> None:
    """Write a record and the ``schema`` it follows, if any. Raises as :func:`write_json`."""
    fields = msgspec.structs.asdict(record)
    write_json(path, fields if schema is None else {"schema": schema} | fields, _fields_of)


def read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """Return the record of a file without a schema, None if the file is absent or damaged."""
    return decode(kind, read_json(path))


def read_versioned(
    path: Path, decoders: Mapping[str, Callable[[Any], _Record | None]]
) -> _Record | None:
    """Return the record of a file; ``decoders`` has the function that decodes each schema.

    The result is None if the file is absent or damaged, or if its schema has no decoder.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(schema := value.pop("schema", None), str):
        return None
    decoder = decoders.get(schema)
    return decoder(value) if decoder is not None else None


def decoder(kind: type[_Record]) -> Callable[[Any], _Record | None]:
    """Return a function that decodes records of the type ``kind``, see :func:`decode`."""
    return functools.partial(decode, kind)


def decode(kind: type[_Record], value: Any) -> _Record | None:
    """Return a value parsed from JSON as a record of the type ``kind``.

    The result is None unless the value has every key of the record, no other key, and values of
    the right types.
    """
    try:
        # msgspec would fill a missing key from the field's default.
        msgspec.convert(value, _strict_record(kind))
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, RecursionError):
        # msgspec raises ValueError for a lone surrogate in a key or a literal.
        return None


def _fields_of(value: object) -> dict[str, Any]:
    if not isinstance(value, Struct):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return msgspec.structs.asdict(value)


@functools.cache
def _strict_record(kind: type[Struct]) -> type[Struct]:
    """Return the strict form of ``kind``: no defaults, no unknown keys, integers of 64 bits."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [(name, _strict_type(hints[name])) for name in kind.__struct_fields__]
    return msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True)


def _strict_type(kind: Any) -> Any:
    """Return the type ``kind`` with the strict form of each record and integer in it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return Annotated[int, _LOWEST, _HIGHEST]
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _strict_record(kind)
    if origin is Annotated and arguments[0] is int:
        return Annotated[int, *arguments[1:], *_missing_bounds(arguments[1:])]
    if origin is Annotated:
        return Annotated[_strict_type(arguments[0]), *arguments[1:]]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_strict_type, arguments))]  # noqa: UP007
    if origin in (tuple, dict):
        return origin[tuple(map(_strict_type, arguments))]
    return kind


def _missing_bounds(metas: tuple[Any, ...]) -> list[Meta]:
    """Return the bounds of 64 bits for the sides where ``metas`` has none: msgspec takes one."""
    has_lowest = any(meta.ge is not None or meta.gt is not None for meta in metas)
    has_highest = any(meta.le is not None or meta.lt is not None for meta in metas)
    return ([] if has_lowest else [_LOWEST]) + ([] if has_highest else [_HIGHEST])
