"""``run.json``: what a run set out to do, written when it begins, for whoever watches it."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from .dataset import Batch, asked_rows
from .deploy.owners import process_identity
from .journal import parse_time, utc_now
from .records import read_record, write_record
from .store import manifest_path, read_manifest

RUN_SCHEMA = "samcourier/run/1"
_PROCESS = re.compile("[0-9]{1,10}-[0-9]{1,20}")


@dataclass(frozen=True)
class Kept:
    """Batches that held already when the run began, and their images by status."""

    batches: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class RunRecord:
    """A run: since when (ISO 8601 in UTC), by which process of which host, and how much to do.

    ``process`` is that of :func:`samcourier.deploy.owners.process_identity`. ``images`` and
    ``batches`` are all that were asked for, those kept included.
    """

    started_at: str
    host: str
    process: str
    images: int
    batches: int
    kept: Kept


def run_record_path(dataset_dir: Path) -> Path:
    """Return where the record of the last run lies."""
    return dataset_dir / "run.json"


def start_record(
    dataset_dir: Path,
    to_make: Collection[Batch],
    kept: Collection[Batch] = (),
    only: Collection[str] | None = None,
) -> None:
    """Write that this process begins to make the batches ``to_make``.

    ``kept`` hold already and stay; one without a manifest was not asked for. ``only`` limits the
    images that are asked for to these.
    """
    manifests = [read_manifest(manifest_path(dataset_dir, batch.batch_id)) for batch in kept]
    statuses = Counter(
        str(entry.get("status"))
        for manifest in manifests
        if manifest is not None
        for image, entry in manifest["images"].items()
        if only is None or image in only
    )
    kept_batches = len([manifest for manifest in manifests if manifest is not None])
    image_count = sum(len(asked_rows(batch.rows, only)) for batch in to_make)
    record = RunRecord(
        started_at=utc_now(),
        host=platform.node(),
        process=process_identity(os.getpid()) or "",
        images=image_count + statuses["done"] + statuses["failed"],
        batches=len(to_make) + kept_batches,
        kept=Kept(kept_batches, statuses["done"], statuses["failed"]),
    )
    write_record(run_record_path(dataset_dir), RUN_SCHEMA, record)


def read_run_record(dataset_dir: Path) -> RunRecord | None:
    """Return the record of the last run, or None when it is absent or damaged."""
    record = read_record(run_record_path(dataset_dir), RUN_SCHEMA, RunRecord)
    return record if record is not None and _is_sound(record) else None


def _is_sound(record: RunRecord) -> bool:
    counts = (record.images, record.batches, *asdict(record.kept).values())
    if min(counts) < 0 or not _PROCESS.fullmatch(record.process):
        return False
    try:
        parse_time(record.started_at)
    except ValueError:
        return False
    return True
