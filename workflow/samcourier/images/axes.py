"""Find the selected positions along each axis of a file. The functions have no side effects.

Where the selection is ambiguous, an error says what to write into the sample sheet; nothing is
guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ImageUnfit
from .location import ImageLocation
from .readers import Source
from .selection import PICK_RULE, How, Pick, Selection

#: Largest number of values of an image, 100 times the largest slides; more means a damaged header.
MOST_VALUES = 10**13

_INDEX_0 = Pick("index", 0, 0)


@dataclass(frozen=True)
class Axis:
    """The selected positions along one of the file's axes, and their use (:class:`Pick`)."""

    letter: str
    positions: Sequence[int]
    how: How

    @property
    def is_kept(self) -> bool:
        return self.how in ("planes", "volume")


def wanted_axes(path: ImageLocation, source: Source, selection: Selection) -> list[Axis]:
    """Return the selected positions of each of the file's axes, in the file's order.

    Samples (S) count as C. Raises :class:`ImageUnfit` for a wrong shape or selection.
    """
    letters = selection.axes or source.axes
    _check(path, source, letters, selection.axes)
    axes = [
        _selected_axis(path, letter, size, selection, source.channel_names)
        for letter, size in zip(_one_channel_axis(letters, source.shape), source.shape, strict=True)
    ]
    _check_absent(path, {axis.letter for axis in axes}, selection)
    return axes


def _one_channel_axis(letters: str, shape: Sequence[int]) -> str:
    """Rename samples (S) to channels; if the file has both, ignore the axis of length 1."""
    if "C" in letters and "S" in letters:
        empty = "S" if shape[letters.index("S")] == 1 else "C"
        letters = letters.replace(empty, "?")
    return letters.replace("S", "C")


def _selected_axis(
    path: ImageLocation, letter: str, size: int, selection: Selection, names: Sequence[str]
) -> Axis:
    """Return the selected positions of one of the file's axes.

    Raises :class:`ImageUnfit` for an ambiguous selection and for positions that do not exist.
    """
    if letter in "YX":
        return Axis(letter, range(size), "volume")
    if letter == "C":
        return _channels(path, size, selection.channel, names)
    pick = {"T": selection.t, "Z": selection.z}.get(letter)
    if pick is None and size != 1:
        raise ImageUnfit(_choice_needed(path, letter, size))
    pick = pick or _INDEX_0
    first, last = pick.first or 0, size - 1 if pick.last is None else pick.last
    if last >= size:
        raise ImageUnfit(f"{path}: {letter.lower()} {pick}, expected positions 0 to {size - 1}")
    how = pick.how if last > first else "index"
    return Axis(letter, range(first, last + 1), how)


def _check_absent(path: ImageLocation, letters: set[str], selection: Selection) -> None:
    """Check the selection along the axes that the file lacks; these have one position."""
    for letter in {"T", "Z", "C"} - letters:
        _selected_axis(path, letter, 1, selection, ())


def _choice_needed(path: ImageLocation, letter: str, size: int) -> str:
    what = {"T": "time points", "Z": "Z"}[letter]
    more = ", or volume, as one stack" if letter == "Z" else ""
    return (
        f"{path}: has {size} {what}; write into the column {letter.lower()} of the sheet which:"
        f" {PICK_RULE}{more}"
    )


def _channels(
    path: ImageLocation, size: int, channel: int | str | None, names: Sequence[str]
) -> Axis:
    """Return the selected channels: all, one, or two separated by a comma."""
    if channel is None:
        return Axis("C", range(size), "volume" if size > 1 else "index")
    known = names if len(names) == size else ()
    requested: list[int | str] = [channel]
    if isinstance(channel, str) and channel not in known and "," in channel:
        requested = [each.strip() for each in channel.split(",")]
    found = tuple(_channel(path, size, each, known) for each in requested)
    if len(found) > 2 or len(set(found)) < len(found):
        raise ImageUnfit(
            f"{path}: channel {channel!r}, expected one, or nucleus and cytoplasm as two of them"
        )
    return Axis("C", found, "volume" if len(found) == 2 else "index")


def channel_labels(axis: Axis | None, names: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each channel of a plane: the file's, else c0, c1; "" without axis C."""
    if axis is None:
        return ("",)
    labels = tuple(names[at] if at < len(names) else "" for at in axis.positions)
    if all(labels) and len(set(labels)) == len(labels):
        return labels
    return tuple(f"c{at}" for at in axis.positions)


def _channel(path: ImageLocation, size: int, channel: int | str, known: Sequence[str]) -> int:
    if isinstance(channel, str) and known.count(channel) == 1:
        return known.index(channel)
    number = int(channel) if str(channel).isdecimal() else -1
    if 0 <= number < size:
        return number
    named = f" or one of {', '.join(known)}" if known else "; the file names none"
    raise ImageUnfit(f"{path}: no channel {channel!r}, expected 0 to {size - 1}{named}")


def _check(path: ImageLocation, source: Source, letters: str, override: str | None) -> None:
    """Raise :class:`ImageUnfit` unless each dimension has a known axis and pixels are numeric."""
    shape, own_axes = source.shape, source.axes
    if source.dtype.kind not in "biuf":
        raise ImageUnfit(f"{path}: pixels are {source.dtype}, expected integers or real floats")
    if len(letters) != len(shape):
        raise ImageUnfit(
            f"{path}: axes {override} name {len(letters)} dimensions, expected one letter for each"
            f" of the file's {_describe(shape, own_axes)}"
        )
    described = _describe(shape, letters)
    if 0 in shape:
        raise ImageUnfit(f"{path}: {described} holds no pixel, expected at least one")
    if math.prod(shape) > MOST_VALUES:
        raise ImageUnfit(f"{path}: {described} is too large, expected at most 10^13 values")
    long = {axis for axis, size in zip(letters, shape, strict=True) if size != 1}
    if unknown := long - set("TCZYXS"):
        raise ImageUnfit(
            f"{path}: the file does not label dimension {', '.join(sorted(unknown))} of"
            f" {described}; write the axes into the sheet, e.g. ZYX for a stack, CYX for channels"
        )
    if not set("YX") <= set(letters):
        raise ImageUnfit(f"{path}: {described}, expected at least Y and X")
    if {"C", "S"} <= long:
        raise ImageUnfit(f"{path}: {described} has samples within channels, expected one of them")


def _describe(shape: Sequence[int], axes: str) -> str:
    return f"shape {tuple(int(size) for size in shape)} ({axes})"
