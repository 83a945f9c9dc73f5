"""The manifest of a batch: the state of each of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from ..files.records import read_record, write_record
from ..masks.integrity import stat_mask
from .image_log import ImageLog, OutputRecord
from .layout import find_mask


class ManifestEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """The state of one image of a batch; ``failure_kind`` is as in :mod:`samcourier.errors`."""

    status: Literal["done", "failed", "not_asked"]
    key: str | None = None
    mask_files: int | None = None
    mask_bytes: int | None = None
    object_count: int | None = None
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    failure_kind: str | None = None
    failure: str | None = None


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """The one declared output of a batch: the state of each of its images, by image id.

    ``made_for`` is the digest of the settings that shaped the masks, None if it was not recorded.
    """

    batch: str
    images: dict[str, ManifestEntry]
    made_for: str | None = None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest atomically. Raises the errors of :func:`write_image_log`."""
    write_record(path, manifest)


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest, or None if it is absent or damaged."""
    return read_record(path, Manifest)


def manifest_entry(dataset_dir: Path, log: ImageLog) -> ManifestEntry:
    """Return the manifest's entry for an image from its log and, if done, its mask on disk."""
    if log.failure is not None:
        return ManifestEntry(
            "failed",
            key=log.key,
            failure_kind=log.failure.kind,
            failure=f"{log.failure.name}: {log.failure.message}",
        )
    files, total_bytes = stat_mask(find_mask(dataset_dir, log.image)) or (None, None)
    return ManifestEntry(
        "done",
        key=log.key,
        mask_files=files,
        mask_bytes=total_bytes,
        object_count=log.object_count,
        outputs=log.outputs,
    )
