"""A batch of images through one connection: read | call | write overlapped, each on its own.

One image's failure is recorded and the others go on. Only what would fail every image alike
(access denied, wrong parameters, no service) ends the batch early.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .connection import ConnectionManager
from .dataset import Batch, ImageRow
from .demands import check_row, check_run
from .derived.outputs import Outputs
from .draft import Draft, manifest_entry, service_identity
from .embeddings import EmbeddingStore
from .errors import (
    CourierError,
    Denied,
    ImageChanged,
    ImageUnfit,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    StorageFailed,
    storage_errors,
)
from .foreground import read_foreground
from .journal import (
    NOTE_REUSED,
    ImageLog,
    Manifest,
    ManifestEntry,
    read_image_log,
    write_image_log,
)
from .mask_layout import OmeZarrVersion
from .masks import delete, read_mask, remove_leftovers, write_mask
from .places import Places, together
from .plane_call import PlaneCaller, Segmented
from .planes import Plane, Planes, file_stamp, opened_planes, stack_sha256
from .store import (
    MASK_SUFFIXES,
    MaskContainer,
    is_whole,
    log_path,
    mask_path,
    read_provenance,
)
from .tile_store import TileStore, discard_tiles
from .tiled_image import TiledImage
from .tiles import ServiceLimits, TileSettings, Tiling, plan_tiles

#: Beside what is called for, one is read and one written: more only takes memory.
AT_HAND = 2

#: So many images failing by the service one after another are no accident.
SERVICE_FAILURES_IN_A_ROW = 5

#: A file that changed while its batch was in work is taken anew so often.
TRIES_OF_CHANGING_IMAGES = 3

_FAILS_EVERY_IMAGE = (Denied, RequestRefused, ServiceGone, StorageFailed)


@dataclass(frozen=True)
class BatchSettings:
    """What a batch needs to know besides its images."""

    dataset_dir: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    ome_zarr: OmeZarrVersion = "0.4"
    mask_container: MaskContainer = "folder"
    retry_failed: bool = False
    only: Collection[str] | None = None
    tiles: TileSettings = field(default_factory=TileSettings)
    embeddings: EmbeddingStore | None = None
    outputs: Collection[str] = ()


class BatchRun:
    """One batch under way. ``description`` is what the service said of itself."""

    def __init__(
        self,
        settings: BatchSettings,
        manager: ConnectionManager,
        description: dict[str, Any],
        on_image: Callable[[ImageLog], None] | None = None,
    ) -> None:
        self._settings = settings
        self._description = description
        self._caller = PlaneCaller(manager, description, settings.embeddings)
        self._identity = service_identity(description)
        self._on_image = on_image or (lambda _: None)
        self._service_failures_in_a_row = 0
        self._stamps: dict[str, object] = {}

        def capacity() -> int:
            return manager.capacity + AT_HAND

        self._images_under_way = Places(capacity)
        # Planes and tiles have places of their own: images that wait for them keep theirs.
        self._planes_under_way = Places(capacity)
        # Measuring a large plane takes a band of memory and a core.
        self._measuring = Places(lambda: 1)

    async def run(self, batch: Batch) -> Manifest:
        """Segment every image asked for and return the manifest of the whole batch.

        Raises Denied, RequestRefused, ServiceGone, or ServiceFailed after several in a row;
        RequestRefused before any image where the service says that it refuses the parameters.
        """
        check_run(
            self._settings.parameters,
            self._description,
            keeps_embeddings=self._settings.embeddings is not None,
        )
        only = self._settings.only
        asked = [row for row in batch.rows if only is None or row.image in only]
        entries = {row.image: self._as_it_stands(row) for row in batch.rows if row not in asked}

        async def one(row: ImageRow) -> None:
            async with self._images_under_way.place():
                entries[row.image] = await self._image(row)

        await together(one(row) for row in asked)
        # Snakemake takes what is older than the manifest as done, whenever it was read.
        for _ in range(TRIES_OF_CHANGING_IMAGES):
            if not (changed := [row for row in asked if self._has_changed(row)]):
                break
            await together(one(row) for row in changed)
        else:
            for row in filter(self._has_changed, asked):
                log = self._draft(row).failed(_changed(row.path))
                await asyncio.to_thread(_keep, log_path(self._settings.dataset_dir, row.image), log)
                entries[row.image] = manifest_entry(self._settings.dataset_dir, log)
        return Manifest(batch.batch_id, {row.image: entries[row.image] for row in batch.rows})

    def _has_changed(self, row: ImageRow) -> bool:
        return row.image in self._stamps and self._stamps[row.image] != file_stamp(row.path)

    def _draft(self, row: ImageRow) -> Draft:
        form = {"ome_zarr": self._settings.ome_zarr, "pixel_size_um": row.pixel_size_um}
        parameters = {**self._settings.parameters, **row.parameters}
        return Draft(row, parameters, self._identity, form)

    def _as_it_stands(self, row: ImageRow) -> ManifestEntry:
        """Return the entry of an image that was not asked for: Snakemake deleted the old one."""
        log = read_image_log(log_path(self._settings.dataset_dir, row.image))
        if log is None:
            return ManifestEntry("not_asked")
        return manifest_entry(self._settings.dataset_dir, log)

    async def _image(self, row: ImageRow) -> ManifestEntry:
        """Bring one image to a mask or a recorded failure."""
        log = await self._segmented(row)
        self._on_image(log)
        return await asyncio.to_thread(manifest_entry, self._settings.dataset_dir, log)

    async def _segmented(self, row: ImageRow) -> ImageLog:
        draft = self._draft(row)
        path = log_path(self._settings.dataset_dir, row.image)
        try:
            check_row(row, self._description)
            log = await self._brought_to_a_mask(row, draft)
        except CourierError as error:
            if row.parameters and isinstance(error, RequestRefused):
                error = ImageUnfit(f"the sheet's parameters: {error}", name=error.name)
            log = draft.failed(error)
            await asyncio.to_thread(_keep, path, log)
            if isinstance(error, _FAILS_EVERY_IMAGE):
                raise
            self._count_service_failure(error)
        return log

    async def _brought_to_a_mask(self, row: ImageRow, draft: Draft) -> ImageLog:
        self._stamps[row.image] = file_stamp(row.path)
        async with opened_planes(row.path, row.selection) as planes:
            tiling = plan_tiles(
                row.path,
                planes.plane_axes,
                planes.plane_shape,
                planes.dtype.itemsize,
                self._settings.tiles,
                ServiceLimits.of(self._description),
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
                row,
                planes,
                draft,
                retry_refused=self._settings.retry_failed,
            )
            known = await asyncio.to_thread(self._known_outcome, row, draft, outputs, first)
            if isinstance(known, ImageLog):
                return known
            if known is not None:
                made = known
            else:
                # What a foreground cuts is not known plane by plane.
                seeing = None if foreground else outputs
                made = await self._segment_all(row, planes, first, tiling, draft, digest, seeing)
                if self._has_changed(row):
                    raise _changed(row.path)
                if foreground is not None:
                    cut = await asyncio.to_thread(foreground.cut, made.mask, len(planes.stack_axes))
                    made = replace(made, mask=cut.mask, object_count=cut.object_count)
                self._service_failures_in_a_row = 0
            await self._write(row, planes, made, draft)
            await asyncio.to_thread(self._complete, outputs, row, draft, first)
        log = draft.done()
        await asyncio.to_thread(_keep, log_path(self._settings.dataset_dir, row.image), log)
        return log

    def _known_outcome(
        self, row: ImageRow, draft: Draft, outputs: Outputs, first: Plane | None
    ) -> ImageLog | Segmented | None:
        """Return what still holds: a log of a whole mask of this key or of this image's own
        fault, or the labels of a mask of this key that is kept in another form.
        """
        path = log_path(self._settings.dataset_dir, row.image)
        log = read_image_log(path)
        same = log is not None and log.key == draft.key
        kept = self._kept_mask(row, draft)
        if kept is not None:
            discard_tiles(mask_path(self._settings.dataset_dir, row.image))
            mask, form, object_count = kept
            if form != draft.form or mask != self._mask_path(row):
                return Segmented(read_mask(mask), object_count, f"{NOTE_REUSED}: in a new form")
            draft.mask, draft.object_count = mask, object_count
            self._complete(outputs, row, draft, first)
            if same and log is not None and log.status == "done":
                if log.outputs == draft.outputs:
                    _mark_as_seen(path)
                    return log
                log = replace(log, outputs=draft.outputs)
            else:
                log = draft.reused(mask, object_count)
            _keep(path, log)
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

    def _kept_mask(self, row: ImageRow, draft: Draft) -> tuple[Path, Any, int] | None:
        """Return a whole mask of this key, its form and object count; where two are, the wanted."""
        found = []
        for container in MASK_SUFFIXES:
            mask = mask_path(self._settings.dataset_dir, row.image, container)
            remove_leftovers(mask)
            provenance = read_provenance(mask) or {}
            object_count = provenance.get("object_count")
            if (
                provenance.get("key") == draft.key
                and isinstance(object_count, int)
                and is_whole(mask, deep=True)
            ):
                found.append((mask, provenance.get("form"), object_count))
        wanted = self._mask_path(row)
        return min(found, key=lambda each: each[0] != wanted, default=None)

    def _mask_path(self, row: ImageRow) -> Path:
        return mask_path(self._settings.dataset_dir, row.image, self._settings.mask_container)

    async def _segment_all(
        self,
        row: ImageRow,
        planes: Planes,
        first: Plane | None,
        tiling: Tiling | None,
        draft: Draft,
        digest: str,
        seeing: Outputs | None,
    ) -> Segmented:
        """Return the mask of every plane, as many calls under way as the service takes."""
        if tiling is not None:
            store = TileStore(mask_path(self._settings.dataset_dir, row.image), str(draft.key))
            image = TiledImage(
                planes, tiling, store, self._caller, self._planes_under_way, self._measuring
            )
            return await image.segment(draft, self._description)
        if first is not None and not planes.stack_axes:
            return await self._caller.segment(first, draft)
        mask = np.zeros(planes.mask_shape, np.uint32)
        found: dict[int, Segmented] = {}
        digests = [""] * len(planes)

        async def one(number: int) -> None:
            async with self._planes_under_way.place():
                with draft.stage("read"):
                    plane = await asyncio.to_thread(planes.read, number)
                digests[number] = plane.pixels_sha256
                found[number] = await self._caller.segment(plane, draft, number)
                labels = np.asarray(found[number].mask)
                if seeing is not None:
                    await asyncio.to_thread(seeing.see, number, plane.pixels, labels)
                mask[planes.position(number)] = labels
                found[number] = replace(found[number], mask=mask)

        await together(one(number) for number in range(len(planes)))
        if stack_sha256(digests, planes.stack_axes, planes.stack_shape) != digest:
            raise _changed(planes.path)
        notes = dict.fromkeys(each.note for each in found.values() if each.note)
        object_count = sum(each.object_count for each in found.values())
        return Segmented(mask, object_count, "; ".join(notes) or None)

    async def _write(self, row: ImageRow, planes: Planes, made: Segmented, draft: Draft) -> None:
        mask = self._mask_path(row)
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
            await asyncio.to_thread(self._remove_what_it_replaces, row)
        draft.mask, draft.object_count, draft.note = mask, made.object_count, made.note

    def _complete(self, outputs: Outputs, row: ImageRow, draft: Draft, first: Plane | None) -> None:
        """Make the outputs that are not there; those of the same key may be, whatever was tried."""
        log = read_image_log(log_path(self._settings.dataset_dir, row.image))
        assert draft.mask is not None and draft.object_count is not None
        had_changed = self._has_changed(row)
        with draft.stage("outputs"), storage_errors(draft.mask):
            draft.outputs = outputs.completed(
                log.outputs if log else {}, draft.mask, first, draft.object_count
            )
        if "input_labels" in draft.outputs and not had_changed:
            # Labels in the input are a change of its folder, but not of the image.
            self._stamps[row.image] = file_stamp(row.path)

    def _remove_what_it_replaces(self, row: ImageRow) -> None:
        discard_tiles(mask_path(self._settings.dataset_dir, row.image))
        for container in MASK_SUFFIXES:
            if container != self._settings.mask_container:
                delete(mask_path(self._settings.dataset_dir, row.image, container))

    def _count_service_failure(self, error: CourierError) -> None:
        if error.kind != "service":
            return
        self._service_failures_in_a_row += 1
        if self._service_failures_in_a_row >= SERVICE_FAILURES_IN_A_ROW:
            raise ServiceFailed(
                f"the service failed for {self._service_failures_in_a_row} images in a row, "
                f"last: {error}; look at its log before going on",
                name=error.name,
            )


def _changed(path: Path) -> ImageChanged:
    return ImageChanged(
        f"{path}: changed while it was in work, expected a file that nobody writes to; run again"
    )


def _keep(path: Path, log: ImageLog) -> None:
    with storage_errors(path):
        write_image_log(path, log)


def _mark_as_seen(path: Path) -> None:
    """Renew the time of a log that still holds: whoever watches sees that the run came by."""
    with storage_errors(path):
        os.utime(path)


@contextmanager
def batch_lock(dataset_dir: Path, batch_id: str, submission: int = 1) -> Iterator[None]:
    """Hold the batch: a job can outlive a killed Snakemake, whose next run starts it again.

    A ``submission`` above 1 is for a job that was lost: killed, out of time, its node gone. One
    that ended by itself has said why in the lock's file, which is raised again at once, unless
    the service had gone, which may be back.
    """
    path = dataset_dir / "batches" / f".{batch_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        said = lock.read()
        if submission > 1 and said:
            raise CourierError(said, name="EndedByItself")
        lock.truncate(0)
        try:
            yield
        except CourierError as error:
            if not isinstance(error, ServiceGone):
                lock.write(str(error))
            raise
