"""Process one image in stages: prepare, find existing results, segment, finish, record."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ImageUnfit, RequestRefused
from ..images.planes import opened_planes
from ..masks.omezarr import kept_mask
from ..outputs.make import Outputs
from ..outputs.parts import OutputsSource, PlaneParts
from ..results.image_log import NOTE_REUSED, ImageLog, renew_log_time, save_log
from ..results.layout import log_path, mask_path
from ..samples.sets import further_files
from ..samples.sheet import ImageRow
from ..tiling.cache import TileStore
from .events import Record
from .existing import (
    NoValidResult,
    ValidFailure,
    ValidLabels,
    ValidMask,
    find_existing,
    keep_older_version,
)
from .finish import Finished, delete_replaced, make_outputs, write
from .plane import Segmented
from .prepared import FileVersion, Prepared, Request, image_changed, prepare
from .recorder import Recorder
from .requirements import check_row_requirements
from .settings import BatchSettings, Shared
from .stack import segment_stack
from .tiled import segment_tiles


@dataclass(frozen=True)
class Recorded:
    """The result of one image; ``log`` is on disk.

    ``error`` is the error that ended the image in this run. ``file`` is the version of its file
    that the log describes, None if the row was refused before the file was read.
    """

    log: ImageLog
    error: Exception | None
    file: FileVersion | None


async def process_image(row: ImageRow, shared: Shared) -> Recorded:
    """Make the mask and outputs of one image, or record its failure.

    Raises StorageFailed if the log cannot be written.
    """
    settings = shared.settings
    path = log_path(settings.dataset_dir, row.image)
    request = Request.of(row, settings, shared.description)
    recorder = Recorder(request)
    file: FileVersion | None = None
    prepared: Prepared | None = None
    finished: Finished | None = None
    try:
        check_row_requirements(row, shared.description)
        further = await asyncio.to_thread(further_files, row)
        file = FileVersion.now(row.path, tuple(map(Path, further)))
        async with opened_planes(row.path, row.selection) as planes:
            prepared = await prepare(request, file, planes, settings, shared.description)
            recorder.record_prepared()
            prepared = await asyncio.to_thread(keep_older_version, prepared, settings)
            existing = await asyncio.to_thread(find_existing, prepared, settings)
            if not isinstance(existing, NoValidResult):
                shared.caller.expect(-1)
            if isinstance(existing, ValidFailure):
                await asyncio.to_thread(renew_log_time, path)
                return Recorded(existing.log, None, file)
            outputs = _outputs(prepared, settings)
            parts: Collection[PlaneParts] = ()
            if isinstance(existing, ValidMask):
                # A run killed while it moved a mask left both containers.
                await asyncio.to_thread(delete_replaced, row.image, settings)
                finished = Finished(existing.mask, existing.object_count, None, file)
            else:
                segmented = await _segment(prepared, existing, outputs, shared, recorder.record)
                finished = await write(prepared, segmented, settings, recorder.record)
                parts = segmented.parts
            earlier = existing.log.outputs if existing.log else {}
            finished = await make_outputs(
                prepared, finished, outputs, earlier, recorder.record, parts
            )
        if isinstance(existing, ValidMask):
            log = recorder.reused(prepared, finished, existing.log)
        else:
            log = recorder.done(prepared, finished)
        await asyncio.to_thread(_save_or_renew, path, log, existing.log)
        return Recorded(log, None, finished.file)
    # Any error of one image must not stop the others.
    except Exception as error:
        return await _record_failure(error, recorder, path, file, prepared, finished)


async def _record_failure(
    error: Exception,
    recorder: Recorder,
    path: Path,
    file: FileVersion | None,
    prepared: Prepared | None,
    finished: Finished | None,
) -> Recorded:
    row = recorder.request.row
    if row.parameters and isinstance(error, RequestRefused):
        # The service refuses this row's parameters, not the run's.
        error = ImageUnfit(f"the sheet's parameters: {error}", name=error.name)
    log = recorder.failed(error, prepared, finished)
    await asyncio.to_thread(save_log, path, log)
    return Recorded(log, error, finished.file if finished else file)


def _outputs(prepared: Prepared, settings: BatchSettings) -> Outputs:
    source = OutputsSource(
        prepared.request.row,
        prepared.planes,
        prepared.key,
        prepared.geometry,
        settings.run.objects,
    )
    return Outputs(
        settings.dataset_dir, settings.run.outputs, source, retry_refused=settings.run.retry_failed
    )


async def _segment(
    prepared: Prepared,
    existing: NoValidResult | ValidLabels,
    outputs: Outputs,
    shared: Shared,
    record: Record,
) -> Segmented:
    """Return the mask, with an earlier run's labels or new ones from tiles, a stack or a plane."""
    if isinstance(existing, ValidLabels):
        mask = await asyncio.to_thread(kept_mask, existing.mask)
        return Segmented(mask, existing.object_count, f"{NOTE_REUSED}: in a new form")
    parameters = prepared.parameters
    if prepared.tiling is not None:
        # Tiles are kept beside the mask's folder name, whatever this run's container is.
        beside = mask_path(shared.settings.dataset_dir, prepared.request.row.image)
        store = TileStore(beside, prepared.key)
        segmented = await segment_tiles(prepared, prepared.tiling, store, shared, record)
    elif prepared.plane is None or prepared.planes.stack_axes:
        # The foreground is applied to the whole stack, so single planes are not final.
        parts_of = None if prepared.foreground else outputs.parts_of
        segmented = await segment_stack(prepared, shared.caller, shared.limiter, record, parts_of)
    else:
        segmented = await shared.caller.segment(prepared.plane, parameters, record)
    if prepared.file.has_changed:
        raise image_changed(prepared.file.path)
    if prepared.foreground is None:
        return segmented
    clipped = await asyncio.to_thread(
        prepared.foreground.clip, segmented.mask, len(prepared.planes.stack_axes)
    )
    return replace(segmented, mask=clipped.mask, object_count=clipped.object_count)


def _save_or_renew(path: Path, log: ImageLog, earlier: ImageLog | None) -> None:
    """Write the log, or renew the file's time if ``earlier`` is the same."""
    if log == earlier:
        renew_log_time(path)
    else:
        save_log(path, log)
