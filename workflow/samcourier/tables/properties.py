"""The properties of images as columns: numbers where every value is one, else texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

#: A value of a property; None where the sheet has none.
Value = int | float | str | None


def typed_properties(rows: Sequence[Mapping[str, str]]) -> dict[str, list[Value]]:
    """Return the properties of all images by name, each with one value for each of ``rows``.

    A property is a column of integers or floats if every value is written as one, and not as a
    number with leading zeros, which is a name.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _typed([row.get(name) or None for row in rows]) for name in names}


def _typed(texts: Sequence[str | None]) -> list[Value]:
    given = [text for text in texts if text is not None]
    for kind in (int, float):
        if given and all(_is_written_as(kind, text) for text in given):
            return [None if text is None else kind(text) for text in texts]
    return list(texts)


def _is_written_as(kind: type[int] | type[float], text: str) -> bool:
    digits = text.lstrip("+-")
    has_leading_zeros = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    if has_leading_zeros or "_" in text:
        return False
    try:
        value = kind(text)
    except ValueError:
        return False
    return abs(value) < 1 << 63 if kind is int else math.isfinite(value)
