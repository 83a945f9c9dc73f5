"""Rows -> tab-separated text, as every table of the project is written. Standard library only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def format_tsv(rows: Iterable[Iterable[object]]) -> str:
    """Return one line for each row; a cell that holds a tab, a quote or a line break is quoted."""
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)
    return stream.getvalue()
