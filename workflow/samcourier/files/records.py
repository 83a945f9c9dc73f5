"""Records as strict JSON files: msgspec Structs, written whole and read back or refused.

A file holds every field of a record, those with a default in Python too, and no other key. Python's
own parser reads the text, since msgspec's refuses a lone surrogate, as in the path of a file whose
name is not UTF-8.
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

#: A count that 64 bits do not hold is none, and no arithmetic may overflow on it.
_Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


def write_record(path: Path, record: Struct, schema: str | None = None) -> None:
    """Write a record and the ``schema`` it follows, if any. Raises as :func:`write_json`."""
    fields = msgspec.structs.asdict(record)
    write_json(path, fields if schema is None else {"schema": schema} | fields, _fields)


def read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """Return what :func:`write_record` wrote without a schema, None when absent or damaged."""
    return decode(kind, read_json(path))


def read_versioned(
    path: Path, decoders: Mapping[str, Callable[[Any], _Record | None]]
) -> _Record | None:
    """Return what :func:`write_record` wrote, decoded as ``decoders`` has it for its schema.

    None when the file is absent, damaged or of a schema without a decoder.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(schema := value.pop("schema", None), str):
        return None
    decoder = decoders.get(schema)
    return decoder(value) if decoder is not None else None


def decoder(kind: type[_Record]) -> Callable[[Any], _Record | None]:
    """Return :func:`decode` for records of one ``kind``."""
    return functools.partial(decode, kind)


def decode(kind: type[_Record], value: Any) -> _Record | None:
    """Return a value parsed from JSON as the record ``kind``: every key, no other, each its type.

    None when it is anything else.
    """
    try:
        # msgspec would fill a missing key from the field's default.
        msgspec.convert(value, _on_disk(kind))
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, RecursionError):
        # ValueError: a lone surrogate where a key or one of several words is expected.
        return None


def _fields(value: object) -> dict[str, Any]:
    if not isinstance(value, Struct):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return msgspec.structs.asdict(value)


@functools.cache
def _on_disk(kind: type[Struct]) -> type[Struct]:
    """Return ``kind`` with every field required, unknown keys refused and integers of 64 bits."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [(name, _required(hints[name])) for name in kind.__struct_fields__]
    return msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True)


def _required(kind: Any) -> Any:
    """Return the type ``kind`` with each record in it as :func:`_on_disk` has it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return _Int64
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _on_disk(kind)
    if origin is Annotated:
        return Annotated[_required(arguments[0]), *arguments[1:]]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_required, arguments))]  # noqa: UP007
    if origin in (tuple, dict):
        return origin[tuple(map(_required, arguments))]
    return kind
