"""The folder of a run -> its report, and the files that are written of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..files.atomic import write_atomic
from ..files.records import write_json
from ..outcome import Outcome, judge
from ..results.connection_log import merge_journals
from ..results.environment import read_circumstances
from ..results.layout import manifest_path
from ..results.manifest import Manifest, read_manifest
from ..samples.sheet import Batch, ImageRow, asked_rows
from .changes import read_changes
from .page import render_page
from .pictures import collect_pictures
from .run import Report
from .table import tsv

#: A network file system answers each look after a while, but many at once.
_MASKS_AT_ONCE = 16
#: So many images are handed to a thread together.
_PART = 32


def build_report(
    rows: Sequence[ImageRow],
    batches: Sequence[Batch],
    dataset_dir: Path,
    only: Collection[str] | None = None,
) -> Report:
    """Gather what the run left in ``dataset_dir``; nothing is written.

    ``only`` names the images that were asked for; None stands for all of ``rows``.
    """
    batch_ids = {row.image: batch.batch_id for batch in batches for row in batch.rows}
    asked = asked_rows(rows, only)
    manifests = _manifests(batches, dataset_dir)

    def judge_some(some: Sequence[ImageRow]) -> list[Outcome]:
        return [judge(row, batch_ids[row.image], dataset_dir, manifests) for row in some]

    # What is compared with a truth takes memory, one after the other.
    at_once = 1 if any(row.truth is not None for row in asked) else _MASKS_AT_ONCE
    parts = [asked[start : start + _PART] for start in range(0, len(asked), _PART)]
    with ThreadPoolExecutor(at_once) as judges:
        outcomes = tuple(outcome for part in judges.map(judge_some, parts) for outcome in part)
    return Report(
        dataset_dir=dataset_dir,
        rows=tuple(asked),
        outcomes=outcomes,
        not_asked_count=len(rows) - len(asked),
        changes=read_changes(dataset_dir / "logs/connection"),
        circumstances=read_circumstances(dataset_dir),
    )


def write_report(
    report: Report, html_path: Path, tsv_path: Path, complete_path: Path | None = None
) -> list[str]:
    """Write the page, the table and ``logs/connection.jsonl``; return the images without mask.

    ``complete_path``, the number of images and the key of each one's mask, is written only when
    every asked image has a whole mask; otherwise an older one is removed.
    """
    logs = report.dataset_dir / "logs"
    merge_journals(logs / "connection", logs / "connection.jsonl")
    pictures = collect_pictures(report.rows, report.outcomes, report.dataset_dir)
    write_atomic(html_path, render_page(report, pictures))
    write_atomic(tsv_path, tsv(report.outcomes))
    if complete_path is not None and report.without_mask:
        complete_path.unlink(missing_ok=True)
    elif complete_path is not None:
        keys = {outcome.image: outcome.key for outcome in report.outcomes}
        write_json(complete_path, {"image_count": len(keys), "keys": keys})
    return report.without_mask


def _manifests(batches: Sequence[Batch], dataset_dir: Path) -> dict[str, Manifest]:
    ids = [batch.batch_id for batch in batches]
    found = {each: read_manifest(manifest_path(dataset_dir, each)) for each in ids}
    return {each: manifest for each, manifest in found.items() if manifest}
