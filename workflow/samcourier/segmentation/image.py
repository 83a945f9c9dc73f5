"""One image of a batch: read, held against what is there, segmented, written, its outputs made."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..concurrency import together
from ..errors import storage_errors
from ..images.planes import Plane, Planes, file_stamp, opened_planes, stack_sha256
from ..images.readers import check_fits_memory
from ..masks.foreground import read_foreground
from ..masks.integrity import MASK_SUFFIXES, MaskContainer, is_whole, read_provenance
from ..masks.omezarr import delete, kept_mask, write_mask
from ..outputs.make import Outputs, OutputsSource
from ..results.image_log import NOTE_REUSED, ImageLog, _mark_as_seen, keep_log, read_image_log
from ..results.layout import log_path, mask_path
from ..samples.sheet import ImageRow
from ..tiling.cache import TileStore, discard_tiles
from ..tiling.grid import ServiceLimits, Tiling, plan_tiles
from .plane import Segmented
from .prepared import changed_in_work
from .recorder import Draft
from .settings import Shared
from .tiled import TiledImage


class ImageRun:
    """One image under way; ``draft`` becomes its log."""

    def __init__(self, row: ImageRow, draft: Draft, shared: Shared) -> None:
        self._row = row
        self._draft = draft
        self._shared = shared
        self._settings = shared.settings
        #: The file as it was when the image was begun.
        self.stamp = file_stamp(row.path)
        self._log_path = log_path(self._settings.dataset_dir, row.image)

    @property
    def _has_changed(self) -> bool:
        return self.stamp != file_stamp(self._row.path)

    def _mask_in(self, container: MaskContainer) -> Path:
        return mask_path(self._settings.dataset_dir, self._row.image, container)

    @property
    def _mask_path(self) -> Path:
        return self._mask_in(self._settings.mask_container)

    @property
    def _tiles_beside(self) -> Path:
        """The mask beside which tiles are kept, whatever the container of this run."""
        return self._mask_in("folder")

    async def run(self) -> ImageLog:
        """Bring the image to a mask and its outputs and return its log. Raises what decided."""
        row, draft = self._row, self._draft
        async with opened_planes(row.path, row.selection) as planes:
            tiling = plan_tiles(
                row.path,
                planes.plane_axes,
                planes.plane_shape,
                planes.dtype.itemsize,
                self._settings.tiles,
                ServiceLimits.of(self._shared.description),
            )
            first = None if tiling else await asyncio.to_thread(planes.read)
            if first is None or planes.stack_axes:
                digest = await asyncio.to_thread(planes.sha256, in_bands=first is None)
            else:
                digest = first.pixels_sha256
            foreground = None
            if row.foreground is not None:
                foreground = await asyncio.to_thread(read_foreground, row.foreground, planes)
            draft.saw(planes, digest, tiling, foreground.sha256 if foreground else None)
            outputs = Outputs(
                self._settings.dataset_dir,
                self._settings.outputs,
                OutputsSource(row, planes, str(draft.key), draft.spacing_um),
                retry_refused=self._settings.retry_failed,
            )
            known = await asyncio.to_thread(self._known_outcome, outputs, first)
            if known is not None:
                self._shared.caller.expect(-1)
            if isinstance(known, ImageLog):
                return known
            if known is not None:
                made = known
            else:
                # What a foreground cuts is not known plane by plane.
                seeing = None if foreground else outputs
                made = await self._segmented(planes, first, tiling, digest, seeing)
                if self._has_changed:
                    raise changed_in_work(row.path)
                if foreground is not None:
                    cut = await asyncio.to_thread(foreground.cut, made.mask, len(planes.stack_axes))
                    made = replace(made, mask=cut.mask, object_count=cut.object_count)
            await self._write(planes, made)
            await asyncio.to_thread(self._complete, outputs, first)
        log = draft.done()
        await asyncio.to_thread(keep_log, self._log_path, log)
        return log

    def _known_outcome(self, outputs: Outputs, first: Plane | None) -> ImageLog | Segmented | None:
        """Return what still holds: a log of a whole mask of this key or of this image's own
        fault, or the labels of a mask of this key that is kept in another form.
        """
        draft, path = self._draft, self._log_path
        log = read_image_log(path)
        same = log is not None and log.key == draft.key
        kept = self._kept_mask()
        if kept is not None:
            mask, form, object_count = kept
            if form != draft.form or mask != self._mask_path:
                return Segmented(kept_mask(mask), object_count, f"{NOTE_REUSED}: in a new form")
            # A run that was killed between the two has left both.
            self._remove_what_it_replaces()
            draft.mask, draft.object_count = mask, object_count
            self._complete(outputs, first)
            if same and log is not None and log.status == "done":
                if log.outputs == draft.outputs:
                    _mark_as_seen(path)
                    return log
                log = replace(log, outputs=draft.outputs)
            else:
                log = draft.reused(mask, object_count)
            keep_log(path, log)
            return log
        if (
            same
            and log is not None
            and log.failure is not None
            and log.failure.kind == "image"
            and not self._settings.retry_failed
        ):
            _mark_as_seen(path)
            return log
        return None

    def _kept_mask(self) -> tuple[Path, Any, int] | None:
        """Return a whole mask of this key, its form and object count; where two are, the wanted."""
        found = []
        for container in MASK_SUFFIXES:
            mask = self._mask_in(container)
            provenance = read_provenance(mask) or {}
            object_count = provenance.get("object_count")
            if (
                provenance.get("key") == self._draft.key
                and isinstance(object_count, int)
                and is_whole(mask)
            ):
                found.append((mask, provenance.get("form"), object_count))
        wanted = self._mask_path
        return min(found, key=lambda each: each[0] != wanted, default=None)

    async def _segmented(
        self,
        planes: Planes,
        first: Plane | None,
        tiling: Tiling | None,
        digest: str,
        seeing: Outputs | None,
    ) -> Segmented:
        """Return the mask of every plane, as many calls under way as the service takes."""
        if tiling is not None:
            store = TileStore(self._tiles_beside, str(self._draft.key))
            shared = self._shared
            image = TiledImage(
                planes, tiling, store, shared.caller, shared.places, shared.measuring
            )
            return await image.segment(self._draft, shared.description)
        if first is not None and not planes.stack_axes:
            return await self._shared.caller.segment(first, self._draft)
        return await self._segmented_stack(planes, digest, seeing)

    async def _segmented_stack(
        self, planes: Planes, digest: str, seeing: Outputs | None
    ) -> Segmented:
        """Return the mask of a stack, each plane of it with ids of its own."""
        check_fits_memory(planes.path, 4 * math.prod(planes.mask_shape))
        mask = np.zeros(planes.mask_shape, np.uint32)
        found: dict[int, Segmented] = {}
        digests = [""] * len(planes)
        self._shared.caller.expect(len(planes) - 1)

        async def one(number: int) -> None:
            async with self._shared.places.place():
                with self._draft.stage("read"):
                    plane = await asyncio.to_thread(planes.read, number)
                digests[number] = plane.pixels_sha256
                found[number] = await self._shared.caller.segment(plane, self._draft, number)
                labels = np.asarray(found[number].mask)
                if seeing is not None:
                    await asyncio.to_thread(seeing.see, number, plane.pixels, labels)
                mask[planes.position(number)] = labels
                found[number] = replace(found[number], mask=mask)

        await together(one(number) for number in range(len(planes)))
        if stack_sha256(digests, planes.stack_axes, planes.stack_shape) != digest:
            raise changed_in_work(planes.path)
        notes = dict.fromkeys(each.note for each in found.values() if each.note)
        object_count = sum(each.object_count for each in found.values())
        return Segmented(mask, object_count, "; ".join(notes) or None)

    async def _write(self, planes: Planes, made: Segmented) -> None:
        draft, mask = self._draft, self._mask_path
        with draft.stage("write"), storage_errors(mask):
            await asyncio.to_thread(
                write_mask,
                mask,
                made.mask,
                planes.mask_axes,
                provenance=draft.provenance(made.object_count),
                pixel_size_um=draft.spacing_um,
                ome_zarr=self._settings.ome_zarr,
            )
            await asyncio.to_thread(self._remove_what_it_replaces)
        draft.mask, draft.object_count, draft.note = mask, made.object_count, made.note

    def _remove_what_it_replaces(self) -> None:
        discard_tiles(self._tiles_beside)
        for container in MASK_SUFFIXES:
            if container != self._settings.mask_container:
                delete(self._mask_in(container))

    def _complete(self, outputs: Outputs, first: Plane | None) -> None:
        """Make the outputs that are not there; those of the same key may be, whatever was tried."""
        draft = self._draft
        log = read_image_log(self._log_path)
        assert draft.mask is not None and draft.object_count is not None
        had_changed = self._has_changed
        with draft.stage("outputs"), storage_errors(draft.mask):
            draft.outputs = outputs.completed(
                log.outputs if log else {},
                draft.mask,
                draft.provenance(draft.object_count),
                first,
            )
        if "input_labels" in draft.outputs and not had_changed:
            # Labels in the input are a change of its folder, but not of the image.
            self.stamp = file_stamp(self._row.path)
