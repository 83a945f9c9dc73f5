"""Text that others wrote, made fit for a page, a table or a terminal."""

from __future__ import annotations

_LONGEST_TEXT = 500


def plain(text: str) -> str:
    """Return text of the sheet or service as one printable line of bounded length.

    Control characters, text direction marks and lone surrogates become U+FFFD.
    """
    line = " ".join(text.split())
    if len(line) > _LONGEST_TEXT:
        line = line[: _LONGEST_TEXT - 1] + "…"
    return "".join(each if each.isprintable() else "\ufffd" for each in line)
