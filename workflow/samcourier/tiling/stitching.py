"""Masks of a plane's tiles -> one mask of the plane, without seams or double ids.

What two tiles say of the pixels they share tells which of their objects are the same. Pixels come
from a function that loads a tile's mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from samservice.contract.labels import present

from .grid import Tile, Tiling, common, shifted

Labels = npt.NDArray[np.uint32]
LoadTile = Callable[[int], Labels]


@dataclass(frozen=True)
class Stitching:
    """How the labels of a plane's tiles become ids 1..``object_count`` of the plane.

    ``ids[number][label]`` is the id of a tile's label, 0 for one that lies outside of its core.
    ``cut_count`` objects reach from a core across the whole halo, so that a tile cut them.
    """

    tiling: Tiling
    ids: tuple[Labels, ...]
    object_count: int
    cut_count: int

    def read(self, load: LoadTile, rows: slice, columns: slice) -> Labels:
        """Return a block of the plane's mask."""
        block = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
        for tile in self.tiling.meeting(rows, columns):
            met = common((rows, columns), tile.core)
            labels = load(tile.number)[tile.within(met)]
            block[shifted(met, (rows, columns))] = self.ids[tile.number][labels]
        return block


def stitch(tiling: Tiling, load: LoadTile) -> Stitching:
    """Find which labels of neighbouring tiles are one object, and number the objects.

    Labels are one object when each covers more of the other than of any other, and at least half
    of the smaller, in the pixels that both tiles were sent. Ids follow from the tiles' masks
    alone: by tile, then by label. Each tile is loaded once; in memory are one at a time and, of a
    row of them, the pixels that those right and below were sent as well.
    """
    joined = _Joined()
    in_cores: list[npt.NDArray[np.intp]] = []
    label_counts: list[int] = []
    cut: list[tuple[int, int]] = []
    shared_with: dict[tuple[int, int], Labels] = {}
    for tile in tiling:
        labels = load(tile.number)
        label_counts.append(int(labels.max(initial=0)) + 1)
        in_core = present(labels[tile.within(tile.core)])
        in_cores.append(in_core)
        cut += [(tile.number, label) for label in _cut_labels(tiling, tile, labels, in_core)]
        for neighbour in _earlier_neighbours(tiling, tile.number):
            mine = labels[tile.within(common(tile.sent, neighbour.sent))]
            for label, other in _same(mine, shared_with.pop((neighbour.number, tile.number))):
                joined.join((tile.number, label), (neighbour.number, other))
        for neighbour in _later_neighbours(tiling, tile.number):
            mine = labels[tile.within(common(tile.sent, neighbour.sent))]
            shared_with[tile.number, neighbour.number] = mine.copy()
    numbers: dict[tuple[int, int], int] = {}
    ids = []
    for tile_number, (labels_in_core, count) in enumerate(zip(in_cores, label_counts, strict=True)):
        lookup = np.zeros(count, np.uint32)
        for label in labels_in_core.tolist():
            root = joined.root((tile_number, label))
            lookup[label] = numbers.setdefault(root, len(numbers) + 1)
        ids.append(lookup)
    return Stitching(tiling, tuple(ids), len(numbers), len({joined.root(each) for each in cut}))


def _earlier_neighbours(tiling: Tiling, number: int) -> Iterator[Tile]:
    """Yield the tiles left of and above this one; objects at a corner meet through these."""
    columns = tiling.grid[1]
    if number % columns:
        yield tiling[number - 1]
    if number >= columns:
        yield tiling[number - columns]


def _later_neighbours(tiling: Tiling, number: int) -> Iterator[Tile]:
    """Yield the tiles right of and below this one."""
    columns = tiling.grid[1]
    if (number + 1) % columns:
        yield tiling[number + 1]
    if number + columns < len(tiling):
        yield tiling[number + columns]


def _cut_labels(
    tiling: Tiling, tile: Tile, labels: Labels, in_core: npt.NDArray[np.intp]
) -> list[int]:
    """Return the labels of the core that reach a side of what was sent inside of the plane."""
    (rows, columns), (height, width) = tile.sent, tiling.shape_px
    sides = [
        labels[0] if rows.start > 0 else None,
        labels[-1] if rows.stop < height else None,
        labels[:, 0] if columns.start > 0 else None,
        labels[:, -1] if columns.stop < width else None,
    ]
    at_sides = np.concatenate([in_core[:0], *(present(side) for side in sides if side is not None)])
    return [int(label) for label in np.intersect1d(in_core, at_sides)]


def _same(labels: Labels, theirs: Labels) -> Iterator[tuple[int, int]]:
    """Yield the pairs of labels that are one object, of two masks of the same pixels."""
    both = (labels > 0) & (theirs > 0)
    pairs, shared = np.unique(
        labels[both].astype(np.uint64) << np.uint64(32) | theirs[both], return_counts=True
    )
    mine, other = (pairs >> np.uint64(32)).astype(np.intp), (pairs & 0xFFFFFFFF).astype(np.intp)
    smaller_px = np.minimum(np.bincount(labels.ravel())[mine], np.bincount(theirs.ravel())[other])
    is_best = _is_most(mine, shared) & _is_most(other, shared) & (2 * shared >= smaller_px)
    yield from zip(mine[is_best].tolist(), other[is_best].tolist(), strict=True)


def _is_most(labels: npt.NDArray[np.intp], shared: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Tell for each pair whether it shares the most of those of its label; the first of equals."""
    order = np.lexsort((np.arange(len(labels)), -shared, labels))
    is_first = np.ones(len(labels), bool)
    is_first[1:] = labels[order][1:] != labels[order][:-1]
    most = np.zeros(len(labels), bool)
    most[order[is_first]] = True
    return most


Member = tuple[int, int]


@dataclass
class _Joined:
    """Labels, as (tile, label), that are one object. Two labels of one tile never are."""

    _parent: dict[Member, Member] = field(default_factory=dict)
    _members: dict[Member, dict[int, int]] = field(default_factory=dict)

    def root(self, member: Member) -> Member:
        while (parent := self._parent.get(member, member)) != member:
            member = parent
        return member

    def join(self, first: Member, second: Member) -> None:
        one, two = sorted((self.root(first), self.root(second)))
        if one == two:
            return
        of_one = self._members.get(one, dict((one,)))
        of_two = self._members.get(two, dict((two,)))
        if any(of_two.get(tile, label) != label for tile, label in of_one.items()):
            return
        self._parent[two] = one
        self._members[one] = of_one | of_two
        self._members.pop(two, None)


class StitchedMask:
    """The mask of an image of tiled planes, uint32, made of its tiles' masks as it is read.

    ``load(plane, tile)`` returns a tile's mask. Implements :class:`.masks.MaskPixels`.
    """

    dtype = np.dtype(np.uint32)

    def __init__(
        self,
        stack_shape: tuple[int, ...],
        stitchings: Sequence[Stitching],
        load: Callable[[int, int], Labels],
    ) -> None:
        self.shape: tuple[int, ...] = (*stack_shape, *stitchings[0].tiling.shape_px)
        self._stack_shape = stack_shape
        self._stitchings = stitchings
        self._load = load

    def __getitem__(self, block: Any) -> Labels:
        if block is Ellipsis:
            block = tuple(slice(0, size) for size in self.shape)
        *stack, rows, columns = block
        numbers = np.arange(len(self._stitchings)).reshape(self._stack_shape)[tuple(stack)]
        planes = [
            self._stitchings[number].read(partial(self._load, number), rows, columns)
            for number in numbers.ravel().tolist()
        ]
        return np.stack(planes).reshape(*numbers.shape, *planes[0].shape)
