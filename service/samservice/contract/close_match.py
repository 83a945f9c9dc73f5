"""Suggest the known name that a misspelt name resembles. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def close_match(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'X'? `` with the closest known name, or "" when no name is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
