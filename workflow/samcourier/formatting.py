"""Make foreign text safe for a page, a table or a terminal, and format values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST_TEXT = 500
#: Number of last characters that are kept, because a long error names its cause at the end.
_LAST_KEPT = 200


def plain(text: str) -> str:
    """Return foreign text as one printable line, shortened in the middle if it is long.

    Control characters, text direction marks and lone surrogates become U+FFFD.
    """
    line = " ".join(text.split())
    if len(line) > _LONGEST_TEXT:
        line = f"{line[: _LONGEST_TEXT - _LAST_KEPT - 3]} … {line[-_LAST_KEPT:]}"
    return _printable(line)


def plain_lines(text: str) -> str:
    """Return text of several lines for a terminal, with the replacements of :func:`plain`.

    Line breaks stay and tabs become spaces. The text is not shortened, since it may be a list of
    findings.
    """
    return "\n".join(_printable(line.expandtabs(1)) for line in text.splitlines())


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def first_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first ``limit`` names and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, e.g. ``2 h 05 min``."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest_s:02d} s" if minutes else f"{rest_s} s"


def format_tsv(rows: Iterable[Iterable[object]]) -> str:
    """Return one line for each row; a cell that holds a tab, a quote or a line break is quoted."""
    import csv
    import io

    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)
    return stream.getvalue()
