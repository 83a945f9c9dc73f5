"""Read a sample sheet into images and batches. Standard library only.

The Snakefile imports this module at every parse, so it must not import slow libraries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.strict_json import canonical_json, parse_json
from ..formatting import redacted
from ..images.geometry import SheetSize, parse_sheet_size
from ..images.location import ImageLocation, image_location, whole_text
from ..images.selection import AXES_RULE, Pick, Selection, are_axes_valid, parse_pick
from .properties import Declared, property_problem
from .table import (
    COLUMNS as COLUMNS,
)
from .table import (
    REQUIRED_COLUMNS,
    SELECTING_COLUMNS,
    Lines,
    cell_value,
    content_lines,
    decoded,
    is_no_value,
    known_columns,
    parse_cells,
)

ID_RULE = (
    "letters a-z A-Z, digits, '_', '-' and '.', not beginning with '.' or '-', at most 200 bytes"
)
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class ImageRow:
    """One row of the sample sheet.

    Attributes:
        image: Id of the image, see ``ID_RULE``.
        path: The image file, or the URL of an OME-Zarr.
        selection: The part of the file to read.
        pixel_size_um: In micrometres; overrides the file's along y and x, and along z if it has
            three numbers (:data:`samcourier.images.geometry.SheetSize`).
        parameters: Override the parameters of the run.
        foreground: Image file that is 0 where no object may be.
        truth: Label image to compare the mask with.
        model: The model that the service must have.
        properties: Further columns, e.g. condition and replicate; they change no mask.
    """

    image: str
    path: ImageLocation
    selection: Selection = field(default_factory=Selection)
    pixel_size_um: SheetSize | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    foreground: ImageLocation | None = None
    truth: ImageLocation | None = None
    model: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The images that one job segments over one connection; ``batch_id`` counts from "0001"."""

    batch_id: str
    rows: tuple[ImageRow, ...]


def read_sheet(path: Path, properties: Declared = None) -> list[ImageRow]:
    """Read a tab separated sample sheet, UTF-8 or, with a byte order mark, UTF-16.

    The cells may be separated by ``;`` instead of tabs. Blank lines and lines beginning with ``#``
    are skipped. Image files are not checked. Further columns are properties of the images; None
    for ``properties`` accepts each that is no typo of a column, otherwise they list the names.
    Raises :class:`InputError` with one line for each problem of the sheet.
    """
    return parse_sheet(read_sheet_content(path), path, properties)


def parse_sheet(content: bytes, path: Path, properties: Declared = None) -> list[ImageRow]:
    """Return the rows of a sample sheet's ``content``, like :func:`read_sheet` for a file.

    ``path`` is used in the messages of InputError.
    """
    return _parse_lines(path, content_lines(content, path), properties)


def redacted_sheet(content: bytes, rows: Sequence[ImageRow], path: Path) -> bytes:
    """Return the ``content`` of a sheet with ``rows`` without signatures and passwords of URLs.

    A sheet without any is returned as it is. ``path`` is used in the messages of InputError.
    """
    located = [each for row in rows for each in (row.path, row.foreground, row.truth) if each]
    if all(str(each) == whole_text(each) for each in located):
        return content
    return redacted(decoded(content, path)).encode()


def read_batch(path: Path, batch_id: str, batch_size: int, properties: Declared = None) -> Batch:
    """Read one batch of a sheet, as :func:`make_batches` divides the rows of :func:`read_sheet`.

    Only the header and the batch's own lines are parsed: a batch of 25 images must not wait for a
    sheet of 100 000. :func:`read_sheet` checks before the run that no image is in two batches.
    Raises :class:`InputError` as :func:`read_sheet` does, and if the sheet has no such batch.
    """
    header, *rows = content_lines(read_sheet_content(path), path)
    starts = range(0, len(rows), batch_size)
    number = int(batch_id) if re.fullmatch("[0-9]{4,9}", batch_id) else 0
    if not 1 <= number <= len(starts) or batch_id != f"{number:04d}":
        raise InputError(f"{path}: has no batch {batch_id!r}, expected one of 1..{len(starts)}")
    start = starts[number - 1]
    own = rows[start : start + batch_size]
    return Batch(batch_id, tuple(_parse_lines(path, [header, *own], properties)))


def sheet_columns(path: Path) -> tuple[str, ...]:
    """Return the names in the header of a sample sheet that :func:`read_sheet` reads."""
    (_, header), *_ = parse_cells(path, content_lines(read_sheet_content(path), path)[:1])
    return tuple(header)


def make_batches(rows: Sequence[ImageRow], batch_size: int) -> list[Batch]:
    """Divide ``rows`` into batches of ``batch_size``; appending rows changes only the last batch.

    Raises :class:`InputError` when ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch size: {batch_size}, expected at least 1")
    return [
        Batch(f"{number:04d}", tuple(rows[start : start + batch_size]))
        for number, start in enumerate(range(0, len(rows), batch_size), start=1)
    ]


def rows_of_subset(rows: Sequence[ImageRow], only: Collection[str] | None) -> list[ImageRow]:
    """Return the rows of the images in ``only``, all rows for None."""
    return [row for row in rows if only is None or row.image in only]


def rows_digest(rows: Sequence[ImageRow]) -> str:
    """Return a digest of 16 hex digits over the columns that affect masks.

    These are all except ``truth`` and the properties.
    """
    relevant = [
        [
            *(row.image, str(row.path), astuple(row.selection), row.pixel_size_um),
            *(dict(row.parameters), row.model, str(row.foreground) if row.foreground else None),
        ]
        for row in rows
    ]
    return hashlib.sha256(canonical_json(relevant)).hexdigest()[:16]


def read_sheet_content(path: Path) -> bytes:
    """Return the bytes of a sample sheet. Raises InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder, expected a sample sheet") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the sample sheet: {error.strerror}") from None


def _parse_lines(path: Path, lines: Lines, properties: Declared) -> list[ImageRow]:
    """Return the rows of ``lines``; the first line is the header."""
    (header_number, header), *parsed = parse_cells(path, lines)
    problems = [
        f"{path}, line {header_number}: {text}" for text in _header_problems(header, properties)
    ]
    if not parsed:
        problems.append(f"{path}: the sheet has a header but no image, expected one row per image")
    rows: list[ImageRow] = []
    first_line: dict[str, int] = {}
    for number, cells in parsed:
        row, row_problems = _parse_row(dict(zip(header, cells, strict=False)), header)
        row_problems += [
            f"column {position}: the cell {cell!r}, expected nothing, since the header has no name"
            for position, (name, cell) in enumerate(zip(header, cells, strict=False), start=1)
            if cell and not name
        ]
        if any(cells[len(header) :]):
            row_problems.append(f"{len(cells)} cells, expected {len(header)} as in the header")
        # On macOS and Windows, mask names that differ only in case are the same file.
        same = first_line.setdefault(row.image.casefold(), number)
        if row.image and same != number:
            row_problems.append(
                f"image {row.image!r} is already on line {same}, expected each id once,"
                " ignoring case"
            )
        problems += [f"{path}, line {number}: {text}" for text in row_problems]
        rows.append(row)
    if problems:
        raise InputError("\n".join(problems))
    return rows


def _header_problems(header: Sequence[str], properties: Declared) -> list[str]:
    if len(header) == 1 and header[0] not in COLUMNS:
        return [f"{header[0]!r} is not a header, expected {known_columns()}, separated by tabs"]
    problems = []
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        problems.append(f"no column {', '.join(missing)}, expected {known_columns()}")
    # A column without a name has no value to lose unless a row has a cell in it.
    for name in dict.fromkeys(filter(None, header)):
        if name not in COLUMNS and (problem := property_problem(name, properties)) is not None:
            problems.append(problem)
        if header.count(name) > 1:
            problems.append(f"column {name!r} appears {header.count(name)} times, expected once")
    return problems


def _parse_row(written: Mapping[str, str], header: Sequence[str]) -> tuple[ImageRow, list[str]]:
    cells, problems = _values(written)
    image, path = cells.get("image", ""), cells.get("path", "")
    pixel_size = cells.get("pixel_size_um", "")
    foreground, truth = cells.get("foreground", ""), cells.get("truth", "")
    if "image" in header and not SAFE_ID.fullmatch(image):
        problems.append(f"image {image!r} is not a safe file name, expected {ID_RULE}")
    if "path" in header and not path:
        said = repr(written["path"]) if written.get("path") else "is empty"
        problems.append(f"path {said}, expected an image file")
    selection, selection_problems = _parse_selection(cells)
    parameters, parameter_problems = _parse_parameters(cells.get("parameters", ""))
    problems += selection_problems + parameter_problems
    pixel_size_um = None
    if pixel_size:
        try:
            pixel_size_um = parse_sheet_size(pixel_size)
        except ValueError as error:
            problems.append(f"pixel_size_um {error}")
    locations: dict[str, ImageLocation | None] = {}
    for name, cell in (("path", path), ("foreground", foreground), ("truth", truth)):
        try:
            locations[name] = image_location(cell) if cell else None
        except ValueError as error:
            problems.append(f"{name}: {error}")
    row = ImageRow(
        image=image,
        path=locations.get("path") or Path(),
        selection=selection,
        pixel_size_um=pixel_size_um,
        parameters=parameters,
        foreground=locations.get("foreground"),
        truth=locations.get("truth"),
        model=cells.get("model") or None,
        properties={name: cell for name, cell in cells.items() if name and name not in COLUMNS},
    )
    return row, problems


def _values(written: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the cells with "" for a missing value, and a problem for each that holds no value."""
    cells, problems = dict(written), []
    for name, cell in written.items():
        if name not in COLUMNS:
            # "none" may be a condition.
            cells[name] = cell_value(cell)
        elif name not in ("image", "parameters") and is_no_value(cell):
            cells[name] = ""
            if name != "path":
                problems.append(f"{name} {cell!r}, expected a value, or an empty cell for none")
        elif name != "image":
            cells[name] = cell_value(cell)
    return cells, problems


def _parse_selection(cells: Mapping[str, str]) -> tuple[Selection, list[str]]:
    if cells.keys().isdisjoint(SELECTING_COLUMNS):
        return Selection(), []
    problems = []
    picks: dict[str, Pick | None] = {"t": None, "z": None}
    for name in picks:
        if cells.get(name):
            try:
                picks[name] = parse_pick(_whole(cells[name]), volume=name == "z")
            except ValueError as error:
                problems.append(f"{name} {error}")
    axes = cells.get("axes", "").upper()
    if axes and not are_axes_valid(axes):
        problems.append(f"axes {axes!r}, expected {AXES_RULE}, or nothing to use the file's own")
    scene, channel = (_index_or_name(cells.get(name, "")) for name in ("scene", "channel"))
    return Selection(scene, picks["t"], picks["z"], channel, axes or None), problems


def _parse_parameters(text: str) -> tuple[dict[str, Any], list[str]]:
    parameters = parse_json(text.encode()) if text else {}
    if not isinstance(parameters, dict):
        return {}, [f'parameters {text!r}, expected a JSON object such as {{"min_area_px": 50}}']
    return parameters, []


def _index_or_name(text: str) -> int | str | None:
    index = _whole(text)
    return int(index) if re.fullmatch("[0-9]{1,9}", index) else text or None


def _whole(text: str) -> str:
    """Return ``text`` with 4.0, as tools write an index beside empty cells, as 4."""
    return re.sub(r"(?<![\w.])([0-9]{1,9})\.0+(?![\w.])", r"\1", text)
