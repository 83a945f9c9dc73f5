"""Segment an image in tiles: concurrent calls, tiles kept on disk, then stitched in order."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from samservice.contract.image_reference import pixels_sha256
from samservice.contract.image_statistics import ImageStatistics
from samservice.contract.labels import compacted

from ..concurrency import together
from ..errors import storage_errors
from ..images.planes import Plane
from ..images.statistics import plane_statistics
from ..tiling.cache import KeptTile, TileStore
from ..tiling.grid import Tile, Tiling
from ..tiling.stitching import StitchedMask, stitch
from .events import Record, TilesKept, timed
from .plane import Segmented
from .prepared import Prepared
from .settings import Shared


async def segment_tiles(
    prepared: Prepared, tiling: Tiling, store: TileStore, shared: Shared, record: Record
) -> Segmented:
    """Return the mask, which stitches its tiles while it is read.

    Tiles that an interrupted run left in ``store`` are not requested again. Raises the error
    that stopped the image; finished tiles stay in ``store``.
    """
    image = _TiledImage(prepared, tiling, store, shared, record)
    with storage_errors(store.folder):
        await asyncio.to_thread(store.open)
    shared.caller.expect(len(prepared.planes) * len(tiling) - 1)
    notes: set[str] = set()

    async def segment_one(number: int) -> None:
        notes.update(await image.plane_notes(number))

    await together(segment_one(number) for number in range(len(prepared.planes)))
    with storage_errors(store.folder):
        return await asyncio.to_thread(image.stitched, notes)


@dataclass(frozen=True)
class _TiledImage:
    """One image that is segmented in tiles."""

    prepared: Prepared
    tiling: Tiling
    store: TileStore
    shared: Shared
    record: Record

    async def plane_notes(self, number: int) -> Collection[str]:
        """Put every tile of a plane into the store; return the service's notes on them."""
        notes: set[str] = set()
        missing: list[Tile] = []
        for tile in self.tiling:
            kept = await asyncio.to_thread(self.store.load, number, tile.number)
            if kept is None:
                missing.append(tile)
            elif kept.note:
                notes.add(kept.note)
        kept_count = len(self.tiling) - len(missing)
        self.record(TilesKept(kept_count))
        self.shared.caller.expect(-kept_count)
        if not missing:
            return notes
        async with self.shared.measuring.slot():
            with timed("read", self.record):
                statistics = await asyncio.to_thread(self._statistics, number)

        async def segment_one(tile: Tile) -> None:
            if note := await self._segment(number, tile, statistics):
                notes.add(note)

        await together(segment_one(tile) for tile in missing)
        return notes

    async def _segment(self, number: int, tile: Tile, statistics: ImageStatistics) -> str | None:
        """Put one tile into the store; return the service's note on it."""
        plane = number if self.prepared.planes.stack_axes else None
        async with self.shared.limiter.slot():
            with timed("read", self.record):
                sent = await asyncio.to_thread(self._sent, number, tile)
            segmented = await self.shared.caller.segment(
                sent,
                self.prepared.parameters,
                self.record,
                plane,
                tile.number,
                replace(statistics, origin_px=tile.origin_px),
            )
            with storage_errors(self.store.folder):
                await asyncio.to_thread(self._keep, number, tile.number, segmented)
        return segmented.note

    def _statistics(self, number: int) -> ImageStatistics:
        description = self.shared.description
        described = description.parameters or {}
        defaults = {name: each.get("default") for name, each in described.items()}
        return plane_statistics(
            self.prepared.planes,
            number,
            description.image_statistics,
            defaults | self.prepared.parameters,
        )

    def _sent(self, number: int, tile: Tile) -> Plane:
        planes = self.prepared.planes
        pixels = planes.read_part(number, *tile.sent)
        digest = pixels_sha256(pixels, planes.plane_axes)
        return Plane(pixels, planes.plane_axes, digest)

    def _keep(self, number: int, tile: int, segmented: Segmented) -> None:
        """Keep a tile with compacted labels: stitching needs a table up to the largest label."""
        _, labels = compacted(np.asarray(segmented.mask))
        self.store.keep(number, tile, KeptTile(labels, segmented.note))

    def stitched(self, notes: Collection[str]) -> Segmented:
        """Return the mask of all planes; ``notes`` are the service's notes on the tiles."""
        stitchings = [
            stitch(self.tiling, partial(self.store.load_mask, number))
            for number in range(len(self.prepared.planes))
        ]
        mask = StitchedMask(self.prepared.planes.stack_shape, stitchings, self.store.load_mask)
        object_count = sum(each.object_count for each in stitchings)
        all_notes = sorted(notes)
        if cut_count := sum(each.cut_count for each in stitchings):
            all_notes.append(
                f"{cut_count} objects reach across the whole halo of a tile, {self.tiling.halo_px}"
                " px, and may be cut there; a larger tiles.halo_px would contain them"
            )
        return Segmented(mask, object_count, "; ".join(all_notes) or None)
