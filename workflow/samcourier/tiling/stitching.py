"""Stitch the masks of a plane's tiles into one mask, without seams or duplicate ids.

The labels of two tiles in their shared pixels show which of their objects are the same. A function
loads the mask of a tile.
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
    """The mapping from the labels of a plane's tiles to ids 1..``object_count`` of the plane.

    Attributes:
        tiling: The tiles.
        ids: ``ids[number][label]`` is the id of a tile's label, 0 for a label outside of its core.
        object_count: Number of objects in the plane.
        cut_count: Number of objects that reach from a core across the whole halo, so that the tile
            does not contain all of them.
    """

    tiling: Tiling
    ids: tuple[Labels, ...]
    object_count: int
    cut_count: int

    def read(self, load: LoadTile, rows: slice, columns: slice) -> Labels:
        """Return a block of the plane's mask, uint32; ``load`` returns the mask of a tile."""
        block = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
        for tile in self.tiling.meeting(rows, columns):
            overlap = common((rows, columns), tile.core)
            labels = load(tile.number)[tile.within(overlap)]
            block[shifted(overlap, (rows, columns))] = self.ids[tile.number][labels]
        return block


def stitch(tiling: Tiling, load: LoadTile) -> Stitching:
    """Find the labels of neighbouring tiles that are the same object, and number the objects.

    Two labels are the same object when, in the pixels that both tiles contain, each overlaps the
    other more than any other label, and the overlap is at least half of the smaller one. Ids
    depend on the tiles' masks only: they are ordered by tile, then by label. Each tile is loaded
    once. In memory are one tile at a time and, of one row of tiles, the pixels that they share
    with the tiles to the right and below.
    """
    joined = _EqualLabels()
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
            for label, other in _same_objects(
                mine, shared_with.pop((neighbour.number, tile.number))
            ):
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
    """Yield the tiles to the left and above; they also connect objects at corners."""
    columns = tiling.grid[1]
    if number % columns:
        yield tiling[number - 1]
    if number >= columns:
        yield tiling[number - columns]


def _later_neighbours(tiling: Tiling, number: int) -> Iterator[Tile]:
    """Yield the tiles to the right and below."""
    columns = tiling.grid[1]
    if (number + 1) % columns:
        yield tiling[number + 1]
    if number + columns < len(tiling):
        yield tiling[number + columns]


def _cut_labels(
    tiling: Tiling, tile: Tile, labels: Labels, in_core: npt.NDArray[np.intp]
) -> list[int]:
    """Return the labels in the core that touch a border of the sent part inside of the plane."""
    (rows, columns), (height, width) = tile.sent, tiling.shape_px
    sides = [
        labels[0] if rows.start > 0 else None,
        labels[-1] if rows.stop < height else None,
        labels[:, 0] if columns.start > 0 else None,
        labels[:, -1] if columns.stop < width else None,
    ]
    at_sides = np.concatenate([in_core[:0], *(present(side) for side in sides if side is not None)])
    return [int(label) for label in np.intersect1d(in_core, at_sides)]


def _same_objects(labels: Labels, theirs: Labels) -> Iterator[tuple[int, int]]:
    """Yield the pairs of labels that are one object in two masks of the same pixels."""
    both = (labels > 0) & (theirs > 0)
    pairs, shared = np.unique(
        labels[both].astype(np.uint64) << np.uint64(32) | theirs[both], return_counts=True
    )
    mine, other = (pairs >> np.uint64(32)).astype(np.intp), (pairs & 0xFFFFFFFF).astype(np.intp)
    smaller_px = np.minimum(np.bincount(labels.ravel())[mine], np.bincount(theirs.ravel())[other])
    is_best = (
        _has_largest_overlap(mine, shared)
        & _has_largest_overlap(other, shared)
        & (2 * shared >= smaller_px)
    )
    yield from zip(mine[is_best].tolist(), other[is_best].tolist(), strict=True)


def _has_largest_overlap(
    labels: npt.NDArray[np.intp], shared: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Return, for each pair, whether its overlap is the largest of its label.

    ``labels`` (n,) is one label of each pair, ``shared`` (n,) the overlap in pixels. Of equal
    overlaps the first counts.
    """
    order = np.lexsort((np.arange(len(labels)), -shared, labels))
    is_first = np.ones(len(labels), bool)
    is_first[1:] = labels[order][1:] != labels[order][:-1]
    is_largest = np.zeros(len(labels), bool)
    is_largest[order[is_first]] = True
    return is_largest


Member = tuple[int, int]


@dataclass
class _EqualLabels:
    """A union-find structure of (tile, label) that are one object.

    Two labels of the same tile are never joined.
    """

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
    """The uint32 mask of an image of tiled planes; reading a block stitches its tiles.

    ``load(plane, tile)`` returns a tile's mask. Implements
    :class:`samcourier.masks.omezarr.MaskPixels`.
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
