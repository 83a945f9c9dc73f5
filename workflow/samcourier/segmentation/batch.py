"""Segment a batch of images over one connection; reading, calls and writing overlap.

The failure of one image is recorded and the others continue. Only an error that would stop every
image (access denied, wrong parameters, no service) ends the batch early.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from samservice.contract.errors import StageHung

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
from .prepared import FileVersion, Request, image_changed
from .recorder import Recorder
from .requirements import check_requirements
from .settings import BatchSettings, Shared

logger = logging.getLogger("samcourier.segmentation")

#: Images beyond the calls in flight: one is read and one is written. More only takes memory.
IMAGES_BESIDE_CALLS = 2

#: The batch ends after so many failures of the service, and at least half of its images, while no
#: image has a mask. Five unusual images in a row must not end a run.
SERVICE_FAILURES = 5

#: Failure classes that count as failures of the service. The cause of an unexpected error is
#: unknown, so it counts too.
_SERVICE_FAILURE_KINDS = ("service", "unexpected")

#: An image whose file changed during its batch is processed again up to this number of times.
TRIES_OF_CHANGING_IMAGES = 3

_FAILS_EVERY_IMAGE = (Denied, RequestRefused, ServiceGone, StorageFailed)

#: Errors that would occur again if the batch were submitted again.
_LASTING_ERRORS = (Denied, RequestRefused, InputError, StorageFailed, ServiceUnfit)


class BatchRun:
    """Segments one batch. ``description`` is the service's own description.

    ``on_image`` is called with the log of each image that ended.
    """

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
        self._subset_count = 0
        self._service_failures = 0
        self._has_mask = False
        self._files: dict[str, FileVersion] = {}

        def capacity() -> int:
            return manager.capacity + IMAGES_BESIDE_CALLS

        self._image_limiter = Limiter(capacity)
        self._shared = Shared(
            settings,
            description,
            PlaneCaller(manager, description, settings.embeddings),
            # Planes and tiles have their own limiter, since waiting images keep their slots.
            limiter=Limiter(capacity),
            # Measuring a large plane takes a core and the memory of one band.
            measuring=Limiter(lambda: 1),
        )

    async def run(self, batch: Batch) -> Manifest:
        """Segment every image of the subset and return the manifest of the whole batch.

        Raises Denied, RequestRefused, ServiceGone or StorageFailed for an error that would stop
        every image, and ServiceUnfit if the service fails repeatedly. RequestRefused is raised
        before the first image if the service's description excludes the parameters.
        """
        check_requirements(
            self._settings.run.parameters,
            self._description,
            keeps_embeddings=self._settings.embeddings is not None,
        )
        rows = rows_of_subset(batch.rows, self._settings.run.subset)
        self._subset_count = len(rows)
        # Masks of the other images may have other settings: a run that includes them checks that.
        entries = {row.image: ManifestEntry("not_asked") for row in batch.rows}
        await asyncio.to_thread(self._remove_leftovers, rows)

        async def process(row: ImageRow) -> None:
            async with self._image_limiter.slot():
                entries[row.image] = await self._process(row)

        await together(process(row) for row in rows)
        # Snakemake treats a file older than the manifest as processed, whenever it was read.
        for _ in range(TRIES_OF_CHANGING_IMAGES):
            if not (changed := [row for row in rows if self._has_changed(row)]):
                break
            await together(process(row) for row in changed)
        else:
            for row in filter(self._has_changed, rows):
                recorder = Recorder(Request.of(row, self._settings, self._description))
                log = recorder.failed(image_changed(row.path))
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

    async def _process(self, row: ImageRow) -> ManifestEntry:
        """Make the mask of one image or record its failure. Raises errors that stop every image."""
        recorded = await process_image(row, self._shared)
        if recorded.file is not None:
            self._files[row.image] = recorded.file
        if isinstance(recorded.error, _FAILS_EVERY_IMAGE):
            raise recorded.error
        log = recorded.log
        self._count_failure(log, is_earlier=recorded.error is None)
        self._has_mask |= log.status == "done"
        log_outcome(log)
        self._on_image(log)
        return await asyncio.to_thread(manifest_entry, self._settings.dataset_dir, log)

    def _count_failure(self, log: ImageLog, is_earlier: bool) -> None:
        failure = log.failure
        if failure is None:
            return
        # One such image is to blame itself. When every image hangs, the service is.
        has_hung = failure.name == StageHung.__name__ and not is_earlier
        if failure.kind not in _SERVICE_FAILURE_KINDS and not has_hung:
            return
        self._service_failures += 1
        limit = max(SERVICE_FAILURES, self._subset_count / 2)
        if not self._has_mask and self._service_failures >= limit:
            raise ServiceUnfit(
                f"the service failed for {self._service_failures} images and made no mask, "
                f"last: {failure.message}; read the service's log before you run again",
                name=failure.name,
            )


def log_outcome(log: ImageLog) -> None:
    """Log the result of an image, and each output that could not be made."""
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
    """Lock the batch: a job can outlive a killed Snakemake, whose next run would start it again.

    A ``submission`` above 1 repeats a lost job: killed, out of time, or on a failed node. If the
    earlier job ended with a lasting error, the lock's file contains its message and CourierError
    is raised with it at once. A missing server or service is no lasting error.
    """
    path = dataset_dir / "batches" / f".{batch_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        message = lock.read()
        if submission > 1 and message:
            raise CourierError(message, name="EndedByItself")
        lock.truncate(0)
        try:
            yield
        except CourierError as error:
            if isinstance(error, _LASTING_ERRORS):
                lock.write(str(error))
            raise
