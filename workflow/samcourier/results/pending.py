"""Find the pending batches and images of a run from the manifests. Standard library only.

The Snakefile checks every mask of the dataset at parse time, so this module imports nothing heavy
and opens no mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..images.location import RemoteImage
from ..masks.integrity import stat_mask
from ..samples.sheet import Batch, ImageRow, rows_of_subset
from .layout import find_mask, log_path, manifest_path, output_path, stat_output

#: Concurrent file checks: a network file system answers each one slowly, but many at a time.
_CONCURRENT_CHECKS = 16


def read_manifest_values(path: Path) -> dict[str, Any] | None:
    """Return a batch's manifest as plain values, None if it is absent or damaged."""
    try:
        manifest = json.loads(path.read_bytes())
        images = manifest["images"]
        is_valid = isinstance(images, dict) and all(isinstance(e, dict) for e in images.values())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return manifest if is_valid else None


def has_failures(dataset_dir: Path, batch_id: str) -> bool:
    """Return whether the batch's manifest lists a failed image or a refused output."""
    manifest = read_manifest_values(manifest_path(dataset_dir, batch_id))
    return manifest is not None and any(map(_has_failed, manifest["images"].values()))


def _has_failed(entry: dict[str, Any]) -> bool:
    records = entry.get("outputs")
    return entry.get("status") == "failed" or (
        isinstance(records, dict)
        and any(isinstance(each, dict) and each.get("refused") for each in records.values())
    )


def remove_stale_manifests(dataset_dir: Path, batches: Iterable[Batch]) -> None:
    """Delete the manifests of batches that are no longer among ``batches``.

    Masks and logs stay, since they belong to an image and not to a batch.
    """
    current = {manifest_path(dataset_dir, batch.batch_id) for batch in batches}
    for path in (dataset_dir / "batches").glob("*.json"):
        if path not in current:
            path.unlink(missing_ok=True)


def batches_to_redo(
    dataset_dir: Path,
    batches: Iterable[Batch],
    only: Collection[str] | None = None,
    outputs: Collection[str] = (),
    settings_digest: Callable[[Batch], str] | None = None,
) -> set[str]:
    """Return the ids of batches whose manifest exists and is out of date.

    Such a manifest is damaged, was made with other settings than ``settings_digest`` returns for
    the batch, or lists other images than the batch has now. It is also out of date if one of its
    images is done while its mask or one of ``outputs`` is missing or damaged, failed for a reason
    other than the image itself, was not part of the run, or has no log. ``only`` limits the check
    of single images to these ids.
    """

    def must_be_redone(batch: Batch) -> bool:
        path = manifest_path(dataset_dir, batch.batch_id)
        if not path.exists():
            return False
        manifest = read_manifest_values(path)
        return (
            manifest is None
            # Snakemake's own records may be missing after the folder was moved.
            or (settings_digest is not None and manifest.get("made_for") != settings_digest(batch))
            or not _is_settled(dataset_dir, batch, manifest, only, outputs)
        )

    batches = list(batches)
    with ThreadPoolExecutor(_CONCURRENT_CHECKS) as executor:
        answers = executor.map(must_be_redone, batches)
        return {batch.batch_id for batch, redo in zip(batches, answers, strict=True) if redo}


def images_to_segment(
    dataset_dir: Path,
    batches: Iterable[Batch],
    only: Collection[str] | None = None,
    settings_digest: Callable[[Batch], str] | None = None,
) -> list[str]:
    """Return the ids of the images to segment: those in ``only`` (None: all) that have no mask.

    An image has its mask if a manifest lists it as done and the mask on disk has the recorded
    number of files and bytes. A manifest with another digest than ``settings_digest`` returns for
    its batch is ignored.
    """
    batches = list(batches)
    entries: dict[str, dict[str, Any]] = {}
    for batch in batches:
        manifest = read_manifest_values(manifest_path(dataset_dir, batch.batch_id))
        if manifest is not None and (
            settings_digest is None or manifest.get("made_for") == settings_digest(batch)
        ):
            entries |= manifest["images"]

    def pending_of(batch: Batch) -> list[str]:
        return [
            row.image
            for row in rows_of_subset(batch.rows, only)
            if not _has_mask(dataset_dir, row.image, entries.get(row.image, {}))
        ]

    with ThreadPoolExecutor(_CONCURRENT_CHECKS) as executor:
        return [image for pending in executor.map(pending_of, batches) for image in pending]


def _has_mask(dataset_dir: Path, image: str, entry: dict[str, Any]) -> bool:
    if entry.get("status") != "done":
        return False
    found = stat_mask(find_mask(dataset_dir, image))
    return found == (entry.get("mask_files"), entry.get("mask_bytes"))


def _is_settled(
    dataset_dir: Path,
    batch: Batch,
    manifest: dict[str, Any],
    only: Collection[str] | None,
    outputs: Collection[str],
) -> bool:
    images = manifest["images"]
    if images.keys() != {row.image for row in batch.rows}:
        return False
    return all(
        _is_image_settled(dataset_dir, row, images[row.image], outputs)
        for row in rows_of_subset(batch.rows, only)
    )


def _is_image_settled(
    dataset_dir: Path, row: ImageRow, entry: dict[str, Any], outputs: Collection[str]
) -> bool:
    image, kind = row.image, entry.get("failure_kind")
    if not log_path(dataset_dir, image).exists():
        return False
    if entry.get("status") == "failed":
        return kind == "image" or (kind == "missing" and not _are_files_there(row))
    if not _has_mask(dataset_dir, image, entry):
        return False
    records = entry.get("outputs")
    return not outputs or (
        isinstance(records, dict)
        and all(_is_output_settled(dataset_dir, image, name, records.get(name)) for name in outputs)
    )


def _are_files_there(row: ImageRow) -> bool:
    """Return whether the row's files exist; for a URL only the next run can tell."""
    return all(
        isinstance(path, RemoteImage) or path.exists()
        for path in (row.path, row.foreground)
        if path is not None
    )


def _is_output_settled(dataset_dir: Path, image: str, name: str, record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    if record.get("refused") is not None:
        return True
    path = output_path(dataset_dir, image, name, record.get("path"))
    return stat_output(path) == (record.get("files"), record.get("bytes"))
