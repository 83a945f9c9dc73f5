"""The objects of all images in one Parquet file, written image by image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..files.atomic import complete_or_absent
from ..outputs.objects import column_type
from .properties import Value, typed_properties
from .sources import ImageTable

#: Rows of the images are written together until there are this many: small groups cost space.
_ROWS_PER_GROUP = 200_000

DIGEST_KEY = b"samcourier_digest"


def objects_digest(path: Path) -> str | None:
    """Return the digest that :func:`write_objects` stored in a file, None for any other file."""
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return metadata.get(DIGEST_KEY, b"").decode() or None


def read_table(path: Path) -> pa.Table:
    """Return the table of one image, from Parquet or CSV."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    # The types are never those of the values: 0012 is an id, and 9 may be a mean.
    with path.open(newline="", encoding="utf-8") as stream:
        names = next(csv.reader(stream))
    types = {name: pa.string() if name == "image" else column_type(name) for name in names}
    options = pyarrow.csv.ConvertOptions(column_types=types)
    return pyarrow.csv.read_csv(path, convert_options=options)


def write_objects(tables: Sequence[ImageTable], path: Path, digest: str) -> None:
    """Write all objects of ``tables`` to ``path``, with the properties after the image's id.

    Images with other columns, e.g. other channels, have empty cells there. The memory that it takes
    is that of the largest table of an image and of one group of rows.
    """
    properties = typed_properties([each.properties for each in tables])
    schema = _schema(tables, properties).with_metadata({DIGEST_KEY: digest.encode()})
    with (
        complete_or_absent(path) as part,
        pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer,
    ):
        for group in _groups(_with_properties(tables, properties, schema)):
            writer.write_table(group)


def _schema(tables: Sequence[ImageTable], properties: dict[str, list[Value]]) -> pa.Schema:
    fields: dict[str, pa.Field] = {"image": pa.field("image", pa.string())}
    for name, values in properties.items():
        fields[name] = pa.field(name, pa.array(values).type if any(values) else pa.string())
    for each in tables:
        if each.path is not None:
            for field in _own_schema(each.path):
                fields.setdefault(field.name, field.with_nullable(True))
    return pa.schema(list(fields.values()))


def _own_schema(path: Path) -> pa.Schema:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_schema(path).remove_metadata()
    return read_table(path).schema


def _with_properties(
    tables: Sequence[ImageTable], properties: dict[str, list[Value]], schema: pa.Schema
) -> Iterator[pa.Table]:
    for number, each in enumerate(tables):
        if each.path is None:
            continue
        own = read_table(each.path)
        columns: dict[str, Any] = {name: own.column(name) for name in own.column_names}
        for name, values in properties.items():
            columns[name] = pa.array([values[number]] * own.num_rows, schema.field(name).type)
        yield pa.table(
            {
                field.name: columns[field.name].cast(field.type)
                if field.name in columns
                else pa.nulls(own.num_rows, field.type)
                for field in schema
            },
            schema=schema,
        )


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
