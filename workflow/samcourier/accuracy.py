"""How well a mask agrees with a known truth: AP50, as DSB 2018 and StarDist count it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError


@dataclass(frozen=True)
class Score:
    """Objects found, invented and missed, and ``average_precision`` in [0, 1]."""

    true_positives: int
    false_positives: int
    false_negatives: int
    average_precision: float


def _check_labels(truth: npt.NDArray[Any], mask: npt.NDArray[Any]) -> None:
    for name, labels in (("truth", truth), ("mask", mask)):
        if labels.dtype.kind not in "ui":
            raise InputError(f"{name}: pixel type {labels.dtype}, expected integer labels")
        if labels.dtype.kind == "i" and labels.size and int(np.min(labels)) < 0:
            raise InputError(f"{name}: label {np.min(labels)}, expected labels of 0 or more")
    if truth.shape != mask.shape:
        raise InputError(f"truth: shape {truth.shape}, expected the mask's shape {mask.shape}")


def _count_matches(
    truth: npt.NDArray[Any], mask: npt.NDArray[Any], iou_threshold: float
) -> tuple[int, int, int]:
    """Return (matched pairs, objects in truth, objects in mask)."""
    truth_ids, truth_areas = np.unique(truth[truth != 0], return_counts=True)
    mask_ids, mask_areas = np.unique(mask[mask != 0], return_counts=True)
    if not len(truth_ids) or not len(mask_ids):
        return 0, len(truth_ids), len(mask_ids)
    both = (truth != 0) & (mask != 0)
    rows = np.searchsorted(truth_ids, truth[both])
    columns = np.searchsorted(mask_ids, mask[both])
    # Only pairs that overlap exist: a dense table of 20 000 by 20 000 objects would not fit.
    pairs, overlaps = np.unique(rows * len(mask_ids) + columns, return_counts=True)
    rows, columns = np.divmod(pairs, len(mask_ids))
    unions = truth_areas[rows] + mask_areas[columns] - overlaps
    accepted = overlaps / unions >= iou_threshold
    _, one_per_truth = np.unique(rows[accepted], return_index=True)
    matched = len(np.unique(columns[accepted][one_per_truth]))
    return matched, len(truth_ids), len(mask_ids)


def score(truth: npt.NDArray[Any], mask: npt.NDArray[Any], iou_threshold: float = 0.5) -> Score:
    """Score ``mask`` against ``truth``: integer labels of one shape, (Y, X) or (Z, Y, X), 0 empty.

    Average precision is TP / (TP + FP + FN), with TP the one-to-one pairs of objects whose
    IoU = overlap / union is at least ``iou_threshold``. Two empty masks agree: 1.0.

    Source: 2018 Data Science Bowl, "Evaluation"; Caicedo et al., Nature Methods 16, 1247
    (2019); StarDist ``stardist.matching.matching``, criterion "iou", field ``accuracy``.

    No assignment problem has to be solved: an object shares more than half of itself with a
    partner of IoU > 0.5, so it has at most one. ``iou_threshold`` must therefore lie in
    [0.5, 1]. At an IoU of exactly 0.5 two halves may tile one object; only one of them counts.

    Raises :class:`InputError` when shapes differ or the values are no labels, ``ValueError``
    for a threshold outside [0.5, 1].
    """
    if not 0.5 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold {iou_threshold}, expected 0.5 to 1")
    _check_labels(truth, mask)
    matched, in_truth, in_mask = _count_matches(truth, mask, iou_threshold)
    invented, missed = in_mask - matched, in_truth - matched
    total = matched + invented + missed
    return Score(matched, invented, missed, matched / total if total else 1.0)
