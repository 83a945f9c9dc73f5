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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from samservice.labels import count_objects
from samservice.wire import (
    WireError,
    is_packed,
    pack_array,
    packed_nbytes,
    unpack_array,
)

from .connection import ConnectionManager
from .connection.call import Answer, Call, CallFailed
from .connection.choose import image_codec
from .connection.estimate import Payload
from .dataset import Batch, ImageRow
from .draft import Draft, manifest_entry, service_identity
from .errors import (
    CourierError,
    Denied,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    StorageFailed,
)
from .journal import (
    ImageLog,
    Manifest,
    ManifestEntry,
    read_image_log,
    write_image_log,
)
from .masks import OmeZarrVersion, check_mask, remove_leftovers, write_mask
from .planes import Plane, read_plane
from .store import is_whole, log_path, mask_path, read_provenance

#: Beside the images that are called for, one is read and one written: more only takes memory.
IMAGES_AT_HAND = 2

#: So many images failing by the service one after another are no accident.
SERVICE_FAILURES_IN_A_ROW = 5

#: Masks compress far better than images; only the first image's prediction needs a guess.
FIRST_GUESS_DOWN_SHARE = 0.05

_FAILS_EVERY_IMAGE = (Denied, RequestRefused, ServiceGone, StorageFailed)


@dataclass(frozen=True)
class BatchSettings:
    """What a batch needs to know besides its images."""

    dataset_dir: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    ome_zarr: OmeZarrVersion = "0.4"
    retry_failed: bool = False
    only: Collection[str] | None = None


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
        self._manager = manager
        self._packs = "wire" in description
        self._identity = service_identity(description)
        self._max_image_bytes = int(description.get("limits", {}).get("max_image_bytes", 1 << 31))
        self._on_image = on_image or (lambda _: None)
        self._down_share = FIRST_GUESS_DOWN_SHARE
        self._service_failures_in_a_row = 0

    async def run(self, batch: Batch) -> Manifest:
        """Segment every image asked for and return the manifest of the whole batch.

        Raises Denied, RequestRefused, ServiceGone, or ServiceFailed after several in a row.
        """
        only = self._settings.only
        asked = [row for row in batch.rows if only is None or row.image in only]
        entries = {row.image: self._as_it_stands(row) for row in batch.rows if row not in asked}
        room = asyncio.Condition()
        under_way = 0

        async def one(row: ImageRow) -> None:
            nonlocal under_way
            async with room:
                await room.wait_for(lambda: under_way < self._manager.capacity + IMAGES_AT_HAND)
                under_way += 1
            try:
                entries[row.image] = await self._image(row)
            finally:
                under_way -= 1
                async with room:
                    room.notify_all()

        try:
            async with asyncio.TaskGroup() as group:
                for row in asked:
                    group.create_task(one(row))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Manifest(batch.batch_id, {row.image: entries[row.image] for row in batch.rows})

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
        form = {"ome_zarr": self._settings.ome_zarr, "pixel_size_um": row.pixel_size_um}
        draft = Draft(row, self._settings.parameters, self._identity, form)
        path = log_path(self._settings.dataset_dir, row.image)
        try:
            plane = await asyncio.to_thread(
                read_plane, row.path, axes=row.axes, channel=row.channel
            )
            draft.saw(plane)
            known = await asyncio.to_thread(self._known_outcome, row, draft)
            if known is not None:
                return known
            await self._travel(row, plane, draft)
            log = draft.done()
        except CourierError as error:
            log = draft.failed(error)
            await asyncio.to_thread(_keep, path, log)
            if isinstance(error, _FAILS_EVERY_IMAGE):
                raise
            self._count_service_failure(error)
        else:
            await asyncio.to_thread(_keep, path, log)
        return log

    def _known_outcome(self, row: ImageRow, draft: Draft) -> ImageLog | None:
        """Return the log that still holds: a whole mask of this key, or this image's own fault."""
        mask = mask_path(self._settings.dataset_dir, row.image)
        remove_leftovers(mask)
        path = log_path(self._settings.dataset_dir, row.image)
        log = read_image_log(path)
        same = log is not None and log.key == draft.key
        provenance = read_provenance(mask)
        wanted = {"key": draft.key, "form": draft.form}
        if (
            provenance is not None
            and wanted == {name: provenance.get(name) for name in wanted}
            and is_whole(mask, deep=True)
        ):
            if same and log is not None and log.status == "done":
                _mark_as_seen(path)
                return log
            reused = draft.reused(mask, provenance.get("object_count"))
            _keep(path, reused)
            return reused
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

    async def _travel(self, row: ImageRow, plane: Plane, draft: Draft) -> None:
        """Pack, call, check, write: what one image goes through when it has no mask yet."""
        with draft.stage("pack"):
            image: Any = plane.pixels
            up_bytes = image.nbytes
            if self._packs:
                codec = image_codec(self._manager.up_bytes_per_s)
                image = await asyncio.to_thread(pack_array, plane.pixels, codec)
                up_bytes = packed_nbytes(image)

        async def accept(value: Any) -> _Received:
            with draft.stage("unpack"):
                return await asyncio.to_thread(self._received, value, plane)

        arguments = {"image_or_embedding": image, **self._settings.parameters}
        if self._packs:
            arguments["axes"] = plane.axes
        payload = Payload(up_bytes, int(up_bytes * self._down_share))
        try:
            answer: Answer[_Received] = await self._manager.call(
                Call("segment_all", arguments, payload, accept)
            )
        except CallFailed as failed:
            draft.attempts = failed.attempts
            raise failed.cause from failed
        self._service_failures_in_a_row = 0
        draft.attempts = answer.attempts
        received = answer.value
        self._down_share = draft.attempts[-1].bytes.down / max(up_bytes, 1)
        mask = mask_path(self._settings.dataset_dir, row.image)
        with draft.stage("write"), _storage_errors(mask):
            await asyncio.to_thread(
                write_mask,
                mask,
                received.mask,
                plane.axes.replace("C", ""),
                provenance=draft.provenance(received.object_count),
                pixel_size_um=draft.form["pixel_size_um"],
                ome_zarr=self._settings.ome_zarr,
            )
        draft.mask, draft.object_count, draft.note = mask, received.object_count, received.note

    def _received(self, value: Any, plane: Plane) -> _Received:
        """Unpack an answer; raise ServiceFailed when the mask does not fit its image."""
        note, mask = None, value
        if isinstance(value, dict) and is_packed(value.get("mask")):
            note = value.get("note")
            try:
                mask = unpack_array(value["mask"], self._max_image_bytes)
            except WireError as error:
                raise ServiceFailed(f"the mask cannot be unpacked: {error}") from error
        mask = check_mask(mask, plane.pixels.shape, plane.axes)
        return _Received(mask, count_objects(mask), None if note is None else str(note))

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


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageFailed(f"{path}: cannot be written ({reason})", name=reason) from error


def _keep(path: Path, log: ImageLog) -> None:
    with _storage_errors(path):
        write_image_log(path, log)


def _mark_as_seen(path: Path) -> None:
    """Renew the time of a log that still holds: whoever watches sees that the run came by."""
    with _storage_errors(path):
        os.utime(path)


@dataclass(frozen=True)
class _Received:
    mask: np.ndarray
    object_count: int
    note: str | None


@contextmanager
def batch_lock(dataset_dir: Path, batch_id: str) -> Iterator[None]:
    """Hold the batch: a job can outlive a killed Snakemake, whose next run starts it again."""
    path = dataset_dir / "batches" / f".{batch_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
