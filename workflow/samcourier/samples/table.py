"""The text of a sample sheet as lines and cells. Standard library only.

Spreadsheets write such a text in several encodings and with several line ends and separators. What
has one meaning is read; anything else is refused with its line and column.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

REQUIRED_COLUMNS = ("image", "path")
SELECTING_COLUMNS = ("scene", "t", "z", "channel", "axes")
OPTIONAL_COLUMNS = (
    *SELECTING_COLUMNS,
    *("pixel_size_um", "model", "parameters", "foreground", "truth"),
)
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS

#: (line number from 1, line) of the header and of each row.
Lines = Sequence[tuple[int, str]]

#: What R, pandas and Excel write into a cell without a value.
_MISSING = ("NA", "N/A", "n/a", "#N/A", "<NA>")
#: What stands for a failed calculation or for a value that was never there.
_NO_VALUE = re.compile(r"(?i:nan|null|none|undefined)|#(REF|NAME|VALUE|DIV/0|NUM|NULL)[!?]")
#: An error value of a spreadsheet at the beginning of a line is a cell, not a comment.
_ERROR_CELL = re.compile(r"#(N/A|(REF|NAME|VALUE|DIV/0|NUM|NULL)[!?])\s*([\t;]|$)")
_BLANK = '\t ;"'
# The longer marks come first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip file, as Excel and LibreOffice save a workbook"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF file"),
    (b"<", "an HTML or XML file"),
)
_SAVE_AS = "expected a tab separated text file: save the sheet as text (Excel: Unicode Text)"


def known_columns() -> str:
    """Return the columns of a sheet in words, for messages."""
    return f"the columns {', '.join(REQUIRED_COLUMNS)} (optional: {', '.join(OPTIONAL_COLUMNS)})"


def content_lines(content: bytes, path: Path) -> list[tuple[int, str]]:
    """Return the header and the rows of a sheet, without blank lines and comments.

    Raises InputError, one line with ``path``, for a content that is no text or has no line.
    """
    text = decoded(content, path).replace("\r\n", "\n").replace("\r", "\n")
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip(_BLANK) and not _is_comment(line)
    ]
    if not lines:
        raise InputError(f"{path}: the sheet is empty, expected a header with {known_columns()}")
    return lines


def parse_cells(path: Path, lines: Lines) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of ``lines``, whose first is the header.

    Each line is parsed alone: an unmatched quote must not affect the lines after it. Empty cells at
    the end of the header are dropped. Raises InputError with one line for each wrong line.
    """
    separator = separator_of(lines[0][1])
    parsed = []
    problems = []
    for number, line in lines:
        try:
            cells = next(csv.reader([line], delimiter=separator, strict=True))
        except csv.Error as error:
            problems.append(f"{path}, line {number}: {error}, expected tab separated cells")
        else:
            parsed.append((number, [cell.strip() for cell in cells]))
    if problems:
        raise InputError("\n".join(problems))
    header = parsed[0][1]
    while header and not header[-1]:
        header.pop()
    return parsed


def separator_of(header: str) -> str:
    """Return the separator of the cells: a tab, or ``;`` where that gives the required columns."""
    names = [name.strip(' "') for name in header.rstrip("; ").split(";")]
    is_known = set(REQUIRED_COLUMNS) <= set(names)
    return ";" if "\t" not in header and is_known else "\t"


def is_plain(content: bytes) -> bool:
    """Return whether lines may be appended to a sheet as tab separated UTF-8."""
    marked = any(content.startswith(mark) for mark, _ in _MARKS[1:])
    return not marked and all(separator_of(line) == "\t" for _, line in _first_line(content))


def cell_value(cell: str) -> str:
    """Return the value of an optional cell, "" where it is marked as missing (NA, N/A)."""
    return "" if cell in _MISSING else cell


def is_no_value(cell: str) -> bool:
    """Return whether a cell holds a spreadsheet's error, ``nan``, ``null`` or ``None``."""
    return _NO_VALUE.fullmatch(cell) is not None


def _first_line(content: bytes) -> list[tuple[int, str]]:
    try:
        return content_lines(content, Path())[:1]
    except InputError:
        return []


def _is_comment(line: str) -> bool:
    return line.startswith("#") and _ERROR_CELL.match(line) is None


def decoded(content: bytes, path: Path) -> str:
    """Return the text of a sheet. Raises InputError with ``path`` for a content that is no text."""
    for start, kind in _OTHER_FILES:
        if content.startswith(start):
            raise InputError(f"{path}: is {kind}, {_SAVE_AS}")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        where = _place(content[: error.start].decode(encoding, "replace"))
        raise InputError(
            f"{path}, {where}: byte {error.start} is not {encoding.upper().removesuffix('-SIG')},"
            " expected a tab separated UTF-8 text file"
        ) from None
    if "\0" in text:
        where = _place(text[: text.index("\0")])
        raise InputError(
            f"{path}, {where}: a zero byte, as in UTF-16 without a byte order mark, expected a tab"
            " separated UTF-8 text file"
        )
    return text


def _place(before: str) -> str:
    """Return the line and, if the header names it, the column that follow the text ``before``."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    separator = separator_of(header)
    names = [name.strip(' "\ufeff') for name in header.split(separator)]
    position = lines[-1].count(separator)
    is_named = len(lines) > 1 and lines[-1] is not header and position < len(names)
    return f"line {len(lines)}" + (f", column {names[position]}" if is_named else "")
