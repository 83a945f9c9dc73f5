"""An image whose planes go as tiles: called for side by side, kept on disk, stitched in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from samservice.contract.labels import compacted

from ..concurrency import Places, together
from ..errors import storage_errors
from ..images.planes import Plane, Planes, pixels_sha256
from ..images.statistics import plane_statistics
from ..tiling.cache import KeptTile, TileStore
from ..tiling.grid import Tile, Tiling
from ..tiling.stitching import StitchedMask, stitch
from .plane import PlaneCaller, Segmented
from .recorder import Draft


class TiledImage:
    """One such image under way; ``places`` to call and to measure are shared with other images."""

    def __init__(
        self,
        planes: Planes,
        tiling: Tiling,
        store: TileStore,
        caller: PlaneCaller,
        places: Places,
        measuring: Places,
    ) -> None:
        self._planes = planes
        self._tiling = tiling
        self._store = store
        self._caller = caller
        self._places = places
        self._measuring = measuring
        self._notes: set[str] = set()

    async def segment(self, draft: Draft, description: dict[str, Any]) -> Segmented:
        """Return the mask, which is made of its tiles as it is read.

        ``description`` is the service's. Tiles kept by a run that was cut off are not called for
        again. Raises the failure that decided; the tiles that are finished stay.
        """
        with storage_errors(self._store.folder):
            await asyncio.to_thread(self._store.open)
        self._caller.expect(len(self._planes) * len(self._tiling) - 1)
        await together(
            self._plane(number, draft, description) for number in range(len(self._planes))
        )
        with storage_errors(self._store.folder):
            return await asyncio.to_thread(self._stitched)

    async def _plane(self, number: int, draft: Draft, description: dict[str, Any]) -> None:
        missing = []
        for tile in self._tiling:
            kept = await asyncio.to_thread(self._store.load, number, tile.number)
            if kept is None:
                missing.append(tile)
            elif kept.note:
                self._notes.add(kept.note)
        kept_count = len(self._tiling) - len(missing)
        draft.tiles_kept += kept_count
        self._caller.expect(-kept_count)
        if not missing:
            return
        async with self._measuring.place():
            with draft.stage("read"):
                statistics = await asyncio.to_thread(
                    plane_statistics,
                    self._planes,
                    number,
                    description["image_statistics"],
                    _with_defaults(draft.parameters, description),
                )
        plane = number if self._planes.stack_axes else None

        async def one(tile: Tile) -> None:
            async with self._places.place():
                with draft.stage("read"):
                    sent = await asyncio.to_thread(self._sent, number, tile)
                made = await self._caller.segment(
                    sent,
                    draft,
                    plane,
                    tile.number,
                    replace(statistics, origin_px=tile.origin_px),
                )
                with storage_errors(self._store.folder):
                    await asyncio.to_thread(self._keep, number, tile.number, made)
                if made.note:
                    self._notes.add(made.note)

        await together(one(tile) for tile in missing)

    def _sent(self, number: int, tile: Tile) -> Plane:
        pixels = self._planes.read_part(number, *tile.sent)
        axes = self._planes.plane_axes
        return Plane(pixels, axes, self._planes.pixel_size_um, pixels_sha256(pixels, axes))

    def _keep(self, number: int, tile: int, made: Segmented) -> None:
        """Keep a tile, its labels compacted: stitching holds a table of them, up to the largest."""
        _, labels = compacted(np.asarray(made.mask))
        self._store.keep(number, tile, KeptTile(labels, made.note))

    def _stitched(self) -> Segmented:
        stitchings = [
            stitch(self._tiling, partial(self._store.load_mask, number))
            for number in range(len(self._planes))
        ]
        mask = StitchedMask(self._planes.stack_shape, stitchings, self._store.load_mask)
        object_count = sum(each.object_count for each in stitchings)
        said = sorted(self._notes)
        if cut_count := sum(each.cut_count for each in stitchings):
            said.append(
                f"{cut_count} objects reach across the whole halo of a tile, {self._tiling.halo_px}"
                " px, and may be cut there; a larger tiles.halo_px would hold them"
            )
        return Segmented(mask, object_count, "; ".join(said) or None)


def _with_defaults(parameters: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    described = description.get("parameters", {})
    return {name: each.get("default") for name, each in described.items()} | parameters
