"""Format rows as a sample sheet, and keep the sheet of found images. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..formatting import format_tsv
from ..images.geometry import format_sheet_size
from ..images.location import ImageLocation, whole_text
from .properties import ANY
from .sheet import COLUMNS, ImageRow, read_sheet

COLUMNS_FOUND = ("image", "path")
COLUMNS_INSPECTED = ("image", "path", "scene", "t", "z", "channel", "pixel_size_um")


def found_sheet_path(dataset_dir: Path) -> Path:
    """Return the path of the sheet in which a run keeps the images that it found."""
    return dataset_dir / "images.tsv"


def known_rows(path: Path) -> list[ImageRow]:
    """Return the rows of an earlier search, [] if there is no valid sheet."""
    try:
        return read_sheet(path, ANY)
    except InputError:
        return []


def write_found_sheet(path: Path, rows: Sequence[ImageRow]) -> None:
    """Write the found images, so that all jobs of this run and the next run use the same ones."""
    # The Snakefile imports this module at every parse, but rarely writes.
    from ..files.atomic import write_if_changed

    write_if_changed(path, format_found_sheet(rows))


def format_found_sheet(rows: Sequence[ImageRow]) -> str:
    """Return the sheet of the found images: ids, paths, scenes if a file has several, properties.

    URLs are redacted: the sheet is kept in the results folder.
    """
    has_scenes = any(row.selection.scene is not None for row in rows)
    columns = (*COLUMNS_FOUND, *["scene"] * has_scenes, *property_names(rows))
    return f"{header(columns)}{_lines([_cells(row, str) for row in rows], columns)}"


def property_names(rows: Iterable[ImageRow]) -> tuple[str, ...]:
    """Return the names of all properties of the images, in the order of the sheet."""
    return tuple(dict.fromkeys(name for row in rows for name in row.properties))


def header(columns: Sequence[str]) -> str:
    """Return the first line of a sheet."""
    return "\t".join(columns) + "\n"


def lines(rows: Iterable[ImageRow], columns: Sequence[str]) -> str:
    """Return one line for each row of the user's own sheet, with these columns: URLs are whole."""
    return _lines([_cells(row, whole_text) for row in rows], columns)


def format_sheet(rows: Sequence[ImageRow]) -> str:
    """Return a sheet that :func:`read_sheet` reads back as ``rows``, with the columns in use.

    URLs are redacted: the sheet is part of the crate.
    """
    table = [_cells(row, str) for row in rows]
    columns = [name for name in COLUMNS if any(cells[name] for cells in table)]
    columns += property_names(rows)
    return header(columns) + _lines(table, columns)


def _lines(table: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    return format_tsv([cells.get(name, "") for name in columns] for cells in table)


def _cells(row: ImageRow, text_of: Callable[[ImageLocation], str]) -> dict[str, str]:
    """Return the row's cell in each column, "" where the row has no value."""
    values = {"image": row.image, **vars(row.selection), "model": row.model}
    for name in ("path", "foreground", "truth"):
        location = getattr(row, name)
        values[name] = None if location is None else text_of(location)
    values["pixel_size_um"] = row.pixel_size_um and format_sheet_size(row.pixel_size_um)
    values["parameters"] = json.dumps(dict(row.parameters)) if row.parameters else None
    cells = {name: "" if values[name] is None else str(values[name]) for name in COLUMNS}
    return cells | dict(row.properties)
