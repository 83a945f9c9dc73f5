"""The selection of an image in a file: scene, t, z, channels, axes. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

How = Literal["index", "planes", "max", "volume"]

PICK_RULE = (
    "a zero-based index (4), a range with both ends (2-5), all, max (their maximum projection)"
)
_PICK = re.compile(r"(?:(all|max|volume)\b\s*)?(?:([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?)?")


@dataclass(frozen=True)
class Pick:
    """Zero-based positions along one axis, from ``first`` to ``last`` inclusive; None for all.

    ``how`` is "index" for one position (the axis is dropped), "planes" to segment each position
    separately, "max" for their maximum projection, or "volume" for one image with the axis kept.
    """

    how: How
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        positions = "" if self.first is None else f"{self.first}-{self.last}"
        match self.how:
            case "index":
                return str(self.first)
            case "planes":
                return positions or "all"
        return f"{self.how} {positions}".strip()


@dataclass(frozen=True)
class Selection:
    """The part of a file to read; None where the file has only one possibility.

    ``scene`` and ``channel`` are zero-based indices or names; ``channel`` may be two, separated by
    a comma: nucleus and cytoplasm. None for ``channel`` selects all channels.
    ``axes`` overrides the file's own, one letter of TCZYXS for
    each of its dimensions.
    """

    scene: int | str | None = None
    t: Pick | None = None
    z: Pick | None = None
    channel: int | str | None = None
    axes: str | None = None


def parse_pick(text: str, *, volume: bool) -> Pick:
    """Return the pick that ``text`` describes.

    ``volume`` allows "volume". Raises ValueError with :data:`PICK_RULE` for any other text.
    """
    rule = PICK_RULE + (", or volume, as one stack" if volume else "")
    match = _PICK.fullmatch(text.strip().lower())
    if not text.strip() or match is None:
        raise ValueError(f"{text!r}, expected {rule}")
    word, first, last = match.groups()
    if (word == "volume" and not volume) or (word == "all" and first):
        raise ValueError(f"{text!r}, expected {rule}")
    how: How = "planes" if word in (None, "all") else "max" if word == "max" else "volume"
    if first is None:
        return Pick(how)
    positions = int(first), int(last or first)
    if positions[0] > positions[1]:
        raise ValueError(f"{text!r} ends before it begins, expected {rule}")
    return Pick("index" if word is None and last is None else how, *positions)


AXES_RULE = "letters of TCZYXS, each once, Y and X among them"


def are_axes_valid(axes: str) -> bool:
    """Return True if ``axes`` follows :data:`AXES_RULE`."""
    return set("YX") <= set(axes) <= set("TCZYXS") and len(set(axes)) == len(axes)
