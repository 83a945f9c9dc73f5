"""The fourth stage: write the mask to a temporary name, compare it, rename it, make its outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import storage_errors
from ..masks.coordinates import Coordinates
from ..masks.integrity import MASK_SUFFIXES
from ..masks.omezarr import delete, write_mask
from ..outputs.make import Outputs
from ..outputs.parts import PlaneParts
from ..results.image_log import OutputRecord
from ..results.layout import mask_path
from ..tiling.cache import discard_tiles
from .events import Record, timed
from .plane import Segmented
from .prepared import FileVersion, Prepared
from .settings import BatchSettings


@dataclass(frozen=True)
class Finished:
    """A complete mask on disk, and the records of its outputs once they are made.

    ``file`` is the version of the image's file that this run knows, with the labels that the run
    itself wrote into it.
    """

    mask: Path
    object_count: int
    note: str | None
    file: FileVersion
    outputs: Mapping[str, OutputRecord] = field(default_factory=dict)


async def write(
    prepared: Prepared, segmented: Segmented, settings: BatchSettings, record: Record
) -> Finished:
    """Write the mask in the container of the settings, and delete what it replaces.

    Raises StorageFailed; an earlier mask then stays.
    """
    image = prepared.request.row.image
    mask = mask_path(settings.dataset_dir, image, settings.run.mask_container)
    with timed("write", record), storage_errors(mask):
        await asyncio.to_thread(
            write_mask,
            mask,
            segmented.mask,
            prepared.planes.mask_axes,
            provenance=prepared.provenance(segmented.object_count),
            coordinates=Coordinates.of(prepared.geometry),
            ome_zarr=settings.run.ome_zarr,
        )
        await asyncio.to_thread(delete_replaced, image, settings)
    return Finished(mask, segmented.object_count, segmented.note, prepared.file)


def delete_replaced(image: str, settings: BatchSettings) -> None:
    """Delete what a whole mask of ``image`` replaces: kept tiles and masks in another container."""
    discard_tiles(mask_path(settings.dataset_dir, image))
    for container in MASK_SUFFIXES:
        if container != settings.run.mask_container:
            delete(mask_path(settings.dataset_dir, image, container))


async def make_outputs(
    prepared: Prepared,
    finished: Finished,
    outputs: Outputs,
    earlier: Mapping[str, OutputRecord],
    record: Record,
    parts: Collection[PlaneParts] = (),
) -> Finished:
    """Make the outputs that are missing or damaged; valid ones of ``earlier`` stay.

    ``parts`` is what the outputs need from each plane, if it was computed with the mask. Raises
    StorageFailed.
    """
    had_changed = prepared.file.has_changed
    with timed("outputs", record), storage_errors(finished.mask):
        records = await asyncio.to_thread(
            outputs.make,
            earlier,
            finished.mask,
            prepared.provenance(finished.object_count),
            prepared.plane,
            parts,
        )
    file = finished.file
    if "input_labels" in records and not had_changed:
        # Labels written into the input change its folder but not the image.
        file = FileVersion.now(file.path, file.further)
    return replace(finished, outputs=records, file=file)
