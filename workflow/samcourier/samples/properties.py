"""Further columns of a sample sheet: properties of the images, such as condition or replicate.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from .table import COLUMNS, known_columns

#: Words that are properties although one edit makes them a column of the sheet.
_NO_TYPOS = frozenset({"mode"})

#: Names of columns that the tables of a run have themselves; the report's seconds follow below.
TABLE_COLUMNS = frozenset(
    {
        *("batch", "status", "object_count", "ap50", "ap75", "mean_matched_iou"),
        *("missed", "split", "merged", "transport", "why", "attempts", "remark"),
        *("up_bytes", "down_bytes", "id", "label", "touches_border", "density_per_mm2"),
        *("extent", "eccentricity", "orientation_rad", "solidity"),
    }
)
#: Columns of seconds, and of measurements such as centroid_y_px and intensity_mean_DAPI.
_OF_TABLES = re.compile(
    "(predicted|read|pack|send|queue|prepare|infer|finish|service|receive|unpack|write|total)_s"
    r"|(area|volume|centroid|bbox|intensity|perimeter|equivalent_diameter|major_axis|minor_axis"
    r"|convex_area|ring|median)_\w+"
)

#: For the sheet of a results folder, which was checked when its run began.
ANY: Literal["any"] = "any"

#: Which names of further columns are properties; see :func:`property_problem`.
Declared = Collection[str] | Literal["any"] | None


def property_problem(name: str, declared: Declared) -> str | None:
    """Return why a further column of a sheet cannot be a property, None if it can.

    Args:
        name: The name in the header.
        declared: The names that the config lists as ``properties``; None if it has no such list,
            and then every name is a property that is no typo of a column. ANY accepts all.
    """
    if declared == ANY:
        return None
    if not name.isprintable() or len(name) > 100:
        return f"column {name!r:.120} is no name of a property, expected printable text"
    if name.casefold() in TABLE_COLUMNS or _OF_TABLES.fullmatch(name.casefold()):
        return (
            f"column {name!r} has a name that the tables of a run use themselves, expected another"
            " name for a property"
        )
    if declared is not None:
        if name in declared:
            return None
        return (
            f"column {name!r} is not among the properties of the config"
            f" ({', '.join(declared) or 'none'}), expected one of them or {known_columns()}"
        )
    if (meant := _typo_of(name)) is not None:
        return (
            f"unknown column {name!r}, did you mean {meant!r}? List it as one of the properties in"
            " the config if it is a property of the images"
        )
    return None


def _typo_of(name: str) -> str | None:
    """Return the column of the sheet that ``name`` is a typo of, None if it is none."""
    folded = name.casefold()
    if folded in _NO_TYPOS:
        return None
    if folded.replace(" ", "_").startswith(("pixel_size", "pixelsize")):
        return "pixel_size_um"
    for column in COLUMNS:
        # One edit of a name of one letter is any other letter.
        if folded == column or (len(column) > 1 and _is_one_edit(folded, column)):
            return column
    return None


def _is_one_edit(name: str, column: str) -> bool:
    """Tell whether one letter inserted, deleted, replaced or swapped with the next suffices.

    The distance of Damerau (1964), for a distance of 1.
    """
    start = next(
        (at for at, (a, b) in enumerate(zip(name, column, strict=False)) if a != b),
        min(len(name), len(column)),
    )
    a, b = name[start:], column[start:]
    is_swapped = len(a) >= 2 and a[:2] == b[1::-1] and a[2:] == b[2:]
    return a != b and (a[1:] == b or a == b[1:] or a[1:] == b[1:] or is_swapped)
