"""``run.json``: the size and start of a run, written when it begins, for the monitor."""

from __future__ import annotations

import hashlib
import os
import platform
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import InputError
from ..files.records import decoder, read_versioned, write_record
from ..processes import pid_of, process_identity
from ..samples.sheet import Batch, ImageRow, rows_of_subset
from .layout import is_held, manifest_path
from .pending import read_manifest_values
from .timestamps import parse_time, utc_now

RUN_SCHEMA = "samcourier/run/2"


class Kept(Struct, frozen=True, forbid_unknown_fields=True):
    """Batches that were up to date when the run began, and their image counts by status."""

    batches: int = 0
    done: int = 0
    failed: int = 0


class RunRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A run: its start (ISO 8601 in UTC), its process and host, and the number of its images.

    ``process`` is from :func:`samcourier.processes.process_identity`. ``images`` and ``batches``
    count the whole subset, with those kept from earlier runs. ``cut`` is the digest of how the
    sheet is divided into batches (:func:`batching_digest`).
    """

    started_at: str
    host: str
    process: str
    images: int
    batches: int
    kept: Kept
    cut: str


_DECODERS = {RUN_SCHEMA: decoder(RunRecord)}


def batching_digest(rows: Sequence[ImageRow], batch_size: int) -> str:
    """Return a digest of the assignment of images to batches."""
    words = [str(batch_size), *(row.image for row in rows)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def run_record_path(dataset_dir: Path) -> Path:
    """Return the path of the record of the last run."""
    return dataset_dir / "run.json"


def start_record(
    dataset_dir: Path,
    to_make: Collection[Batch],
    kept: Collection[Batch] = (),
    only: Collection[str] | None = None,
    *,
    cut: str,
) -> None:
    """Write the record of a run in which this process makes the batches ``to_make``.

    ``kept`` batches are up to date and stay; one without a manifest is not part of the run.
    ``only`` limits the images of the run to these ids. Raises InputError while a batch of an
    earlier run that divided the sheet into other batches still runs: it holds another lock, so its
    images would be processed twice.
    """
    before = read_run_record(dataset_dir)
    if before is not None and before.cut != cut and (held := batches_at_work(dataset_dir)):
        raise InputError(
            f"{dataset_dir}: batch {', '.join(held)} of an earlier run is still running, and that"
            " run divided the sheet into other batches; wait until it ends, or end it"
        )
    manifests = [read_manifest_values(manifest_path(dataset_dir, batch.batch_id)) for batch in kept]
    statuses = Counter(
        str(entry.get("status"))
        for manifest in manifests
        if manifest is not None
        for image, entry in manifest["images"].items()
        if only is None or image in only
    )
    kept_batches = len([manifest for manifest in manifests if manifest is not None])
    image_count = sum(len(rows_of_subset(batch.rows, only)) for batch in to_make)
    record = RunRecord(
        started_at=utc_now(),
        host=platform.node(),
        process=process_identity(os.getpid()) or "",
        images=image_count + statuses["done"] + statuses["failed"],
        batches=len(to_make) + kept_batches,
        kept=Kept(kept_batches, statuses["done"], statuses["failed"]),
        cut=cut,
    )
    write_record(run_record_path(dataset_dir), record, RUN_SCHEMA)


def read_run_record(dataset_dir: Path) -> RunRecord | None:
    """Return the record of the last run, or None if it is absent or damaged."""
    record = read_versioned(run_record_path(dataset_dir), _DECODERS)
    return record if record is not None and _is_sound(record) else None


def batches_at_work(dataset_dir: Path) -> list[str]:
    """Return the ids of the batches whose lock a process holds, sorted."""
    locks = sorted((dataset_dir / "batches").glob(".*.lock"))
    return [lock.name[1:].removesuffix(".lock") for lock in locks if is_held(lock)]


def _is_sound(record: RunRecord) -> bool:
    kept = record.kept
    counts = (record.images, record.batches, kept.batches, kept.done, kept.failed)
    if min(counts) < 0 or pid_of(record.process) is None:
        return False
    try:
        parse_time(record.started_at)
    except ValueError:
        return False
    return True
