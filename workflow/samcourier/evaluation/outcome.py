"""What became of one image, judged from its log, its mask and the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CourierError
from ..images.label_image import read_label_image
from ..images.readers import check_fits_memory
from ..masks.integrity import whole_provenance
from ..masks.omezarr import opened_mask, read_mask
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import find_mask, log_path
from ..results.manifest import Manifest
from ..samples.sheet import ImageRow
from .accuracy import Accuracy, assess

#: Of the plane that is compared: both label images, and the ids and pairs of their pixels.
_ASSESSED_BYTES_A_PIXEL = 40

Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Outcome:
    """One image: ``done`` has a whole mask, ``failed`` was given up, ``missing`` is neither.

    ``remark`` says why there is no mask, or what else is worth saying. ``key`` is the mask's.
    ``accuracy`` compares it with the sheet's truth; None without truth. ``labels_sha256`` is what
    a whole mask says of its labels; None of an older one, which does not.
    """

    image: str
    batch_id: str
    status: Status
    remark: str | None
    key: str | None
    accuracy: Accuracy | None
    log: ImageLog | None
    labels_sha256: str | None = None

    @property
    def object_count(self) -> int | None:
        """Objects of the mask; None without a mask."""
        return self.log.object_count if self.log and self.status == "done" else None


def evaluate_image(
    row: ImageRow, batch_id: str, dataset_dir: Path, manifests: Mapping[str, Manifest]
) -> Outcome:
    """Return the outcome of ``row``. ``manifests`` are those that exist, by batch id."""
    log = read_image_log(log_path(dataset_dir, row.image))
    mask = find_mask(dataset_dir, row.image)
    provenance = whole_provenance(mask)
    key, labels_sha256 = (_text(provenance, name) for name in ("key", "labels_sha256"))
    status, remark = _state(log, provenance is not None, key)
    if log is None and status == "missing":
        remark = _untried(row.image, batch_id, manifests)
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
    return Outcome(row.image, batch_id, status, remark, key, accuracy, log, labels_sha256)


def _text(provenance: Mapping[str, Any] | None, name: str) -> str | None:
    value = (provenance or {}).get(name)
    return value if isinstance(value, str) else None


def _state(log: ImageLog | None, whole: bool, key: str | None) -> tuple[Status, str | None]:
    if log is None:
        return ("done", "its log is missing or damaged") if whole else ("missing", None)
    if log.status == "failed":
        failure = log.failure
        return (
            "failed",
            f"{failure.kind} failure: {failure.message}" if failure else "no reason given",
        )
    if not whole:
        return "missing", "its log says done, but the mask is absent or damaged"
    if key != log.key:
        return "missing", "the mask is not the one its log tells of"
    return "done", log.note


def _untried(image: str, batch_id: str, manifests: Mapping[str, Manifest]) -> str:
    """Say why there is neither log nor mask."""
    if batch_id not in manifests:
        return f"batch {batch_id} did not finish"
    entry = manifests[batch_id].images.get(image)
    if entry is None or entry.status == "not_asked":
        return f"batch {batch_id} was not asked for it"
    return entry.failure or "its log and mask are gone"


def _accuracy(
    truth: Path, mask: Path, mask_axes: str | None, planes: int
) -> tuple[Accuracy | None, str | None]:
    """Return how mask and truth agree, or what kept that from being known."""
    try:
        with opened_mask(mask) as labels:
            plane_px = math.prod(labels.shape) // planes
        check_fits_memory(mask, _ASSESSED_BYTES_A_PIXEL * plane_px)
        return assess(read_label_image(truth, mask_axes), read_mask(mask), planes), None
    except CourierError as error:
        said = str(error)
        where = "" if said.startswith(str(truth)) else f"{truth}: "
        return None, f"no accuracy: {where}{said}"
    # A damaged file makes a reader raise anything, and a report must still come out.
    except Exception as error:
        return None, f"no accuracy: {truth}: {type(error).__name__}: {error}"
