"""Make foreign text safe for a page, a table or a terminal, and format values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

#: A URL in a text: its scheme and the rest.
URL = re.compile(r"""\b([A-Za-z][A-Za-z0-9+.-]*)://([^\s'"<>]+)""")
#: Stands for what :func:`redacted` leaves out.
LEFT_OUT = "***"
_FINGERPRINT = re.compile(r"\*\*\*[0-9a-f]{12}")

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


def redacted(text: str) -> str:
    """Return ``text`` with user names, passwords, queries and fragments of all URLs replaced.

    A query becomes ``***`` and twelve hexadecimal digits of its SHA-256, so that URLs that differ
    in their query alone stay different. Text that is redacted already does not change.
    """
    return URL.sub(_redacted_url, text) if "://" in text else text


def _redacted_url(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    address, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host, slash, path = address.partition("/")
    if "@" in host:
        host = f"{LEFT_OUT}@{host.rpartition('@')[2]}"
    if mark and not _FINGERPRINT.fullmatch(query):
        query = LEFT_OUT + hashlib.sha256(query.encode()).hexdigest()[:12]
    return f"{scheme}://{host}{slash}{path}{mark}{query}"
