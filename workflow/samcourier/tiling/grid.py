"""Divide a large plane into tiles with a halo. The functions have no side effects.

The cores of the tiles cover the plane without overlap, and each tile provides the labels of its
core. It is sent with a halo around the core, so that objects at the core's border are complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import ImageUnfit
from ..images.location import ImageLocation
from ..results.service_description import ServiceDescription
from ..settings.run_settings import TileSettings

Block = tuple[slice, slice]


@dataclass(frozen=True)
class ServiceLimits:
    """The service's limits of one call, and the image statistics that it accepts with a tile.

    None means no limit.
    """

    max_pixels: int | None = None
    max_image_bytes: int | None = None
    image_statistics: tuple[str, ...] = ()

    @classmethod
    def of(cls, description: ServiceDescription) -> ServiceLimits:
        """Return the limits from a service's ``describe()``."""
        limits = description.limits
        return cls(limits.max_pixels, limits.max_image_bytes, description.image_statistics)

    def excess(self, shape: Sequence[int], itemsize: int) -> str | None:
        """Describe the limit that an array of ``shape`` exceeds; None if it exceeds none."""
        pixels = math.prod(shape)
        if self.max_pixels is not None and pixels > self.max_pixels:
            return f"{pixels} values, and the service takes at most {self.max_pixels}"
        if self.max_image_bytes is not None and pixels * itemsize > self.max_image_bytes:
            return (
                f"{pixels * itemsize} bytes, and the service takes at most {self.max_image_bytes}"
            )
        return None


@dataclass(frozen=True)
class Tile:
    """One tile: its ``core``, and the part that is ``sent``, as slices (Y, X) of the plane."""

    number: int
    core: Block
    sent: Block

    def within(self, block: Block) -> Block:
        """Return ``block``, slices of the plane, as slices of the sent part."""
        return shifted(block, self.sent)

    @property
    def origin_px(self) -> tuple[int, int]:
        return self.sent[0].start, self.sent[1].start


@dataclass(frozen=True)
class Tiling:
    """The tiles of a plane of ``shape_px`` (Y, X), numbered row by row.

    ``edge_px`` is the side of a core, ``halo_px`` the width of the halo.
    """

    shape_px: tuple[int, int]
    edge_px: int
    halo_px: int

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles along Y and X."""
        rows, columns = (-(-size // self.edge_px) for size in self.shape_px)
        return rows, columns

    def __len__(self) -> int:
        return math.prod(self.grid)

    def __getitem__(self, number: int) -> Tile:
        if not 0 <= number < len(self):
            raise IndexError(f"tile {number} of {len(self)}")
        core = [
            slice(index * self.edge_px, min((index + 1) * self.edge_px, size))
            for index, size in zip(divmod(number, self.grid[1]), self.shape_px, strict=True)
        ]
        sent = [
            slice(max(part.start - self.halo_px, 0), min(part.stop + self.halo_px, size))
            for part, size in zip(core, self.shape_px, strict=True)
        ]
        return Tile(number, (core[0], core[1]), (sent[0], sent[1]))

    def __iter__(self) -> Iterator[Tile]:
        return (self[number] for number in range(len(self)))

    def meeting(self, rows: slice, columns: slice) -> Iterator[Tile]:
        """Yield the tiles whose cores overlap the block."""
        tile_rows, tile_columns = (
            range(part.start // self.edge_px, -(-part.stop // self.edge_px))
            for part in (rows, columns)
        )
        return (self[y * self.grid[1] + x] for y in tile_rows for x in tile_columns)

    @property
    def largest_sent_px(self) -> tuple[int, int]:
        """(Y, X) of the largest sent part."""
        rows, columns = (min(self.edge_px + 2 * self.halo_px, size) for size in self.shape_px)
        return rows, columns

    @property
    def identity(self) -> dict[str, int]:
        """The settings of the tiling that may change labels."""
        return {"edge_px": self.edge_px, "halo_px": self.halo_px}


def plan_tiles(
    path: ImageLocation,
    axes: str,
    shape: Sequence[int],
    itemsize: int,
    settings: TileSettings,
    limits: ServiceLimits,
) -> Tiling | None:
    """Return the tiling of a plane or volume, None when it is sent as a whole.

    ``path`` is used in messages; ``shape`` along ``axes`` and ``itemsize`` in bytes are those of
    the plane. Raises ImageUnfit, with a remedy, if the service accepts neither the whole nor tiles.
    """
    excess = limits.excess(shape, itemsize)
    described = f"{path}: shape {tuple(shape)} ({axes})"
    if "Z" in axes:
        if excess is None:
            return None
        raise ImageUnfit(
            f"{described} as one volume has {excess}; choose fewer depths in the column z, or"
            " plane by plane (all)"
        )
    plane_px = (shape[-2], shape[-1])
    if excess is None and (math.prod(plane_px) <= settings.above_px or not limits.image_statistics):
        return None
    if not limits.image_statistics:
        raise ImageUnfit(
            f"{described} has {excess}; it cannot go as tiles either, since the service takes no"
            " image_statistics and would stretch the noise of a blank tile"
        )
    tiling = Tiling(plane_px, settings.edge_px, settings.halo_px)
    sent = (*shape[:-2], *tiling.largest_sent_px)
    if excess := limits.excess(sent, itemsize):
        raise ImageUnfit(f"{described}: a tile of {sent} has {excess}; lower tiles.edge_px")
    return tiling if len(tiling) > 1 else None


def common(first: Block, second: Block) -> Block:
    """Return the intersection of two blocks."""
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return rows, columns


def shifted(block: Block, origin: Block) -> Block:
    """Return ``block`` relative to the first pixel of ``origin``."""
    rows, columns = (
        slice(part.start - start.start, part.stop - start.start)
        for part, start in zip(block, origin, strict=True)
    )
    return rows, columns
