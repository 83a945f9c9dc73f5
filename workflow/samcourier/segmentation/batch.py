"""A batch of images through one connection: read | call | write overlapped, each on its own.

One image's failure is recorded and the others go on. Only what would fail every image alike
(access denied, wrong parameters, no service) ends the batch early.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..concurrency import Limiter, together
from ..connection import ConnectionManager
from ..errors import (
    CourierError,
    Denied,
    InputError,
    RequestRefused,
    ServiceGone,
    ServiceUnfit,
    StorageFailed,
)
from ..masks.integrity import MASK_SUFFIXES
from ..masks.omezarr import remove_leftovers
from ..results.image_log import ImageLog, save_log
from ..results.layout import log_path, mask_path
from ..results.manifest import Manifest, ManifestEntry, manifest_entry
from ..results.service_description import ServiceDescription
from ..samples.sheet import Batch, ImageRow, rows_of_subset
from .image import process_image
from .plane import PlaneCaller
from .prepared import FileVersion, Request, changed_in_work
from .recorder import Recorder
from .requirements import check_requirements
from .settings import BatchSettings, Shared

logger = logging.getLogger("samcourier.segmentation")

#: Beside what is called for, one is read and one written: more only takes memory.
AT_HAND = 2

#: So many images, and no fewer than half of the batch, that failed by the service while none of
#: the batch has a mask are no accident. Five odd ones side by side must not end a run.
SERVICE_FAILURES = 5

#: Of an error that nobody foresaw neither the image nor the service is known to be innocent.
_BY_THE_SERVICE = ("service", "unexpected")

#: A file that changed while its batch was in work is taken anew so often.
TRIES_OF_CHANGING_IMAGES = 3

_FAILS_EVERY_IMAGE = (Denied, RequestRefused, ServiceGone, StorageFailed)

#: What a batch that is submitted again would meet again.
_STAYS = (Denied, RequestRefused, InputError, StorageFailed, ServiceUnfit)


class BatchRun:
    """One batch under way. ``description`` is what the service said of itself."""

    def __init__(
        self,
        settings: BatchSettings,
        manager: ConnectionManager,
        description: ServiceDescription,
        on_image: Callable[[ImageLog], None] | None = None,
    ) -> None:
        self._settings = settings
        self._description = description
        self._on_image = on_image or (lambda _: None)
        self._asked_count = 0
        self._service_failures = 0
        self._has_mask = False
        self._files: dict[str, FileVersion] = {}

        def capacity() -> int:
            return manager.capacity + AT_HAND

        self._images_under_way = Limiter(capacity)
        self._shared = Shared(
            settings,
            description,
            PlaneCaller(manager, description, settings.embeddings),
            # Planes and tiles have places of their own: images that wait for them keep theirs.
            limiter=Limiter(capacity),
            # Measuring a large plane takes a band of memory and a core.
            measuring=Limiter(lambda: 1),
        )

    async def run(self, batch: Batch) -> Manifest:
        """Segment every image asked for and return the manifest of the whole batch.

        Raises Denied, RequestRefused, ServiceGone, or ServiceUnfit where it fails again and again;
        RequestRefused before any image where the service says that it refuses the parameters.
        """
        check_requirements(
            self._settings.run.parameters,
            self._description,
            keeps_embeddings=self._settings.embeddings is not None,
        )
        asked = rows_of_subset(batch.rows, self._settings.run.subset)
        self._asked_count = len(asked)
        # What is there of the others may be of other settings: the run that asks for them looks.
        entries = {row.image: ManifestEntry("not_asked") for row in batch.rows}
        await asyncio.to_thread(self._remove_leftovers, asked)

        async def one(row: ImageRow) -> None:
            async with self._images_under_way.slot():
                entries[row.image] = await self._image(row)

        await together(one(row) for row in asked)
        # Snakemake takes what is older than the manifest as done, whenever it was read.
        for _ in range(TRIES_OF_CHANGING_IMAGES):
            if not (changed := [row for row in asked if self._has_changed(row)]):
                break
            await together(one(row) for row in changed)
        else:
            for row in filter(self._has_changed, asked):
                recorder = Recorder(Request.of(row, self._settings, self._description))
                log = recorder.failed(changed_in_work(row.path))
                path = log_path(self._settings.dataset_dir, row.image)
                await asyncio.to_thread(save_log, path, log)
                entries[row.image] = manifest_entry(self._settings.dataset_dir, log)
        return Manifest(batch.batch_id, {row.image: entries[row.image] for row in batch.rows})

    def _has_changed(self, row: ImageRow) -> bool:
        file = self._files.get(row.image)
        return file is not None and file.has_changed

    def _remove_leftovers(self, rows: Collection[ImageRow]) -> None:
        masks = {
            mask_path(self._settings.dataset_dir, row.image, container)
            for row in rows
            for container in MASK_SUFFIXES
        }
        for folder in {mask.parent for mask in masks}:
            remove_leftovers(folder, {mask.name for mask in masks})

    async def _image(self, row: ImageRow) -> ManifestEntry:
        """Bring one image to a mask or a recorded failure. Raises what fails every image alike."""
        recorded = await process_image(row, self._shared)
        if recorded.file is not None:
            self._files[row.image] = recorded.file
        if isinstance(recorded.error, _FAILS_EVERY_IMAGE):
            raise recorded.error
        log = recorded.log
        self._count_failure(log)
        self._has_mask |= log.status == "done"
        log_outcome(log)
        self._on_image(log)
        return await asyncio.to_thread(manifest_entry, self._settings.dataset_dir, log)

    def _count_failure(self, log: ImageLog) -> None:
        failure = log.failure
        if failure is None or failure.kind not in _BY_THE_SERVICE:
            return
        self._service_failures += 1
        most = max(SERVICE_FAILURES, self._asked_count / 2)
        if not self._has_mask and self._service_failures >= most:
            raise ServiceUnfit(
                f"the service failed for {self._service_failures} images and made no mask, "
                f"last: {failure.message}; look at its log before going on",
                name=failure.name,
            )


def log_outcome(log: ImageLog) -> None:
    """Log what became of an image, and of the outputs that it was refused."""
    attempt = log.attempts[-1] if log.attempts and not log.reused else None
    transport = attempt.transport if attempt is not None else None
    fields = {"image": log.image, "transport": transport, "seconds": log.seconds.total}
    if (failure := log.failure) is not None:
        line = f"failed ({failure.kind}): {failure.name}: {failure.message}"
        logger.warning("%s: %s", log.image, line, extra=fields)
    else:
        line = f"{log.object_count} objects, {transport or 'no call'}"
        logger.info("%s: %s", log.image, line, extra=fields)
    for name, output in log.outputs.items():
        if output.refused is not None:
            logger.info("%s: no %s: %s", log.image, name, output.refused, extra=fields)


@contextmanager
def batch_lock(dataset_dir: Path, batch_id: str, submission: int = 1) -> Iterator[None]:
    """Hold the batch: a job can outlive a killed Snakemake, whose next run starts it again.

    A ``submission`` above 1 is for a job that was lost: killed, out of time, its node gone. One
    that ended for a reason that stays has said it in the lock's file, which is raised again at
    once; a server or a service that was away may be back.
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
            if isinstance(error, _STAYS):
                lock.write(str(error))
            raise
