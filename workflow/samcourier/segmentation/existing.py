"""The second stage: find the mask or failure of an earlier run that is still valid for an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..masks.integrity import MASK_SUFFIXES, is_complete, read_provenance
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import log_path, mask_path
from ..results.service_description import is_older_version
from .key import image_key
from .prepared import Prepared
from .settings import BatchSettings


@dataclass(frozen=True)
class NoValidResult:
    """The image must be segmented. ``log`` is that of an earlier run, with any key."""

    log: ImageLog | None


@dataclass(frozen=True)
class ValidFailure:
    """An earlier run with the same key failed because of the image, as ``log`` records."""

    log: ImageLog


@dataclass(frozen=True)
class ValidLabels:
    """``mask`` is complete and has this key, but another form or container than this run's."""

    log: ImageLog | None
    mask: Path
    object_count: int


@dataclass(frozen=True)
class ValidMask:
    """``mask`` is complete and has this key and this run's form and container."""

    log: ImageLog | None
    mask: Path
    object_count: int


Existing = NoValidResult | ValidFailure | ValidLabels | ValidMask


@dataclass(frozen=True)
class _WholeMask:
    path: Path
    form: Mapping[str, Any] | None
    object_count: int


def find_existing(prepared: Prepared, settings: BatchSettings) -> Existing:
    """Return the valid result of an earlier run for the image; no file is changed.

    If both containers have a complete mask of this key, this run's container counts. A failure
    stays valid unless the settings request that failed images are retried.
    """
    image, key = prepared.request.row.image, prepared.key
    paths = [mask_path(settings.dataset_dir, image, container) for container in MASK_SUFFIXES]
    masks = [mask for path in paths if (mask := _whole_mask(path, key)) is not None]
    log = read_image_log(log_path(settings.dataset_dir, image))
    if masks:
        wanted = mask_path(settings.dataset_dir, image, settings.run.mask_container)
        mask = min(masks, key=lambda each: each.path != wanted)
        is_current = mask.path == wanted and mask.form == prepared.form
        return (ValidMask if is_current else ValidLabels)(log, mask.path, mask.object_count)
    if log is not None and _is_own_fault(log, key) and not settings.run.retry_failed:
        return ValidFailure(log)
    return NoValidResult(log)


def keep_older_version(prepared: Prepared, settings: BatchSettings) -> Prepared:
    """Return the image with the key and service of its mask by an older version of the engine.

    Such a complete mask stays valid unless the settings request that finished masks are replaced:
    only the version of its engine is lower; pixels, parameters, tiles, foreground and model are
    those of this run. Without one, or beside a mask with the current key, ``prepared`` itself is
    returned.
    """
    image, request = prepared.request.row.image, prepared.request
    paths = [mask_path(settings.dataset_dir, image, container) for container in MASK_SUFFIXES]
    found = {path: read_provenance(path) or {} for path in paths}
    has_current = any(each.get("key") == prepared.key for each in found.values())
    if settings.run.replace or has_current:
        return prepared
    for path, provenance in found.items():
        service = provenance.get("service")
        if not isinstance(service, dict) or not is_older_version(service, request.service):
            continue
        # An older version may not have known the parameters of the image's geometry.
        for parameters in (prepared.parameters, request.parameters):
            key = image_key(
                prepared.pixels_sha256,
                parameters,
                service,
                prepared.tiling.identity if prepared.tiling else None,
                prepared.foreground.sha256 if prepared.foreground else None,
            )
            if key == provenance.get("key") and is_complete(path):
                return replace(
                    prepared,
                    request=replace(request, service=service),
                    parameters=parameters,
                    key=key,
                )
    return prepared


def _is_own_fault(log: ImageLog, key: str) -> bool:
    return log.key == key and log.failure is not None and log.failure.kind == "image"


def _whole_mask(path: Path, key: str) -> _WholeMask | None:
    provenance = read_provenance(path) or {}
    object_count = provenance.get("object_count")
    if provenance.get("key") != key or not isinstance(object_count, int) or not is_complete(path):
        return None
    return _WholeMask(path, provenance.get("form"), object_count)
