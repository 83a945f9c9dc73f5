"""The second stage: what an earlier run left of an image, and what of it still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..masks.integrity import MASK_SUFFIXES, is_whole, read_provenance
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import log_path, mask_path
from .prepared import Prepared
from .settings import BatchSettings


@dataclass(frozen=True)
class NothingHolds:
    """The image is to be segmented. ``log`` is an earlier one, whatever its key."""

    log: ImageLog | None


@dataclass(frozen=True)
class FailureHolds:
    """With this key the image failed by its own fault, as ``log`` says."""

    log: ImageLog


@dataclass(frozen=True)
class LabelsHold:
    """``mask`` is a whole one of this key, but of another form or container."""

    log: ImageLog | None
    mask: Path
    object_count: int


@dataclass(frozen=True)
class MaskHolds:
    """``mask`` is a whole one of this key, in the form and container of this run."""

    log: ImageLog | None
    mask: Path
    object_count: int


Existing = NothingHolds | FailureHolds | LabelsHold | MaskHolds


@dataclass(frozen=True)
class _WholeMask:
    path: Path
    form: Mapping[str, Any] | None
    object_count: int


def find_existing(prepared: Prepared, settings: BatchSettings) -> Existing:
    """Read what an earlier run left of the image; nothing is changed there.

    Of two whole masks of this key the one in the container of this run counts. A failure holds
    unless the settings want failed images to be tried again.
    """
    image, key = prepared.request.row.image, prepared.key
    paths = [mask_path(settings.dataset_dir, image, container) for container in MASK_SUFFIXES]
    masks = [mask for path in paths if (mask := _whole_mask(path, key)) is not None]
    log = read_image_log(log_path(settings.dataset_dir, image))
    if masks:
        wanted = mask_path(settings.dataset_dir, image, settings.run.mask_container)
        mask = min(masks, key=lambda each: each.path != wanted)
        holds = mask.path == wanted and mask.form == prepared.form
        return (MaskHolds if holds else LabelsHold)(log, mask.path, mask.object_count)
    if log is not None and _is_own_fault(log, key) and not settings.run.retry_failed:
        return FailureHolds(log)
    return NothingHolds(log)


def _is_own_fault(log: ImageLog, key: str) -> bool:
    return log.key == key and log.failure is not None and log.failure.kind == "image"


def _whole_mask(path: Path, key: str) -> _WholeMask | None:
    provenance = read_provenance(path) or {}
    object_count = provenance.get("object_count")
    if provenance.get("key") != key or not isinstance(object_count, int) or not is_whole(path):
        return None
    return _WholeMask(path, provenance.get("form"), object_count)
