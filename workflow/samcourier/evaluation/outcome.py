"""Evaluate one image from its log, its mask and the ground truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import CourierError
from ..images.label_image import read_label_image
from ..images.location import ImageLocation
from ..images.readers import check_fits_memory
from ..masks.integrity import provenance_if_complete
from ..masks.omezarr import opened_mask, read_mask
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import find_mask, log_path
from ..results.manifest import Manifest
from ..samples.sheet import ImageRow
from .accuracy import Accuracy, compute_accuracy

#: Memory for the comparison of a plane: both label images, and the ids and pairs of their pixels.
_COMPARISON_BYTES_PER_PIXEL = 40

Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one image: ``done`` with a complete mask, ``failed``, or else ``missing``.

    ``remark`` is the reason for a missing mask, or another note. ``key`` is the mask's key.
    ``accuracy`` compares the mask with the sheet's ground truth, None without truth.
    ``labels_sha256`` is the digest that the mask has of its labels, None in an older mask.
    ``is_older_version`` is set if a newer version of the engine that made the mask is known.
    ``properties`` are those of the image in the sheet.
    """

    image: str
    batch_id: str
    status: Status
    remark: str | None
    key: str | None
    accuracy: Accuracy | None
    log: ImageLog | None
    labels_sha256: str | None = None
    is_older_version: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def object_count(self) -> int | None:
        """Number of objects in the mask, None without a mask."""
        return self.log.object_count if self.log and self.status == "done" else None


def evaluate_image(
    row: ImageRow, batch_id: str, dataset_dir: Path, manifests: Mapping[str, Manifest]
) -> Outcome:
    """Return the outcome of ``row``. ``manifests`` are the existing ones by batch id."""
    log = read_image_log(log_path(dataset_dir, row.image))
    mask = find_mask(dataset_dir, row.image)
    provenance = provenance_if_complete(mask)
    key, labels_sha256 = (_text(provenance, name) for name in ("key", "labels_sha256"))
    status, remark = _state(log, provenance is not None, key)
    if log is None and status == "missing":
        remark = _missing_reason(row.image, batch_id, manifests)
    if log is not None and status == "done":
        refused = [
            f"no {name}: {each.refused}" for name, each in log.outputs.items() if each.refused
        ]
        remark = "; ".join(filter(None, (remark, *refused))) or None
    accuracy = None
    if status == "done" and row.truth is not None:
        mask_axes = log.axes.replace("C", "") if log and log.axes else None
        accuracy, problem = _accuracy(row.truth, mask, mask_axes, log.planes if log else 1)
        remark = "; ".join(filter(None, (remark, problem))) or None
    return Outcome(
        row.image,
        batch_id,
        status,
        remark,
        key,
        accuracy,
        log,
        labels_sha256,
        properties=row.properties,
    )


def _text(provenance: Mapping[str, Any] | None, name: str) -> str | None:
    value = (provenance or {}).get(name)
    return value if isinstance(value, str) else None


def _state(log: ImageLog | None, is_complete: bool, key: str | None) -> tuple[Status, str | None]:
    if log is None:
        return ("done", "its log is missing or damaged") if is_complete else ("missing", None)
    if log.status == "failed":
        failure = log.failure
        return (
            "failed",
            f"{failure.kind} failure: {failure.message}" if failure else "no reason given",
        )
    if not is_complete:
        return "missing", "its log says done, but the mask is absent or damaged"
    if key != log.key:
        return "missing", "the mask does not have the key in its log"
    return "done", log.note


def _missing_reason(image: str, batch_id: str, manifests: Mapping[str, Manifest]) -> str:
    """Return why the image has neither a log nor a mask."""
    if batch_id not in manifests:
        return f"batch {batch_id} did not finish"
    entry = manifests[batch_id].images.get(image)
    if entry is None or entry.status == "not_asked":
        return f"batch {batch_id} ran without it: it is not in the subset"
    return entry.failure or "its log and mask are missing"


def _accuracy(
    truth: ImageLocation, mask: Path, mask_axes: str | None, planes: int
) -> tuple[Accuracy | None, str | None]:
    """Return the accuracy of the mask, or the reason why it cannot be computed."""
    try:
        with opened_mask(mask) as labels:
            plane_px = math.prod(labels.shape) // planes
        check_fits_memory(mask, _COMPARISON_BYTES_PER_PIXEL * plane_px)
        return compute_accuracy(read_label_image(truth, mask_axes), read_mask(mask), planes), None
    except CourierError as error:
        message = str(error)
        prefix = "" if message.startswith(str(truth)) else f"{truth}: "
        return None, f"no accuracy: {prefix}{message}"
    # A damaged file can make a reader raise any error, and the report must still be written.
    except Exception as error:
        return None, f"no accuracy: {truth}: {type(error).__name__}: {error}"
