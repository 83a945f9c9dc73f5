"""Compare a mask with the ground truth, by the counting rules of StarDist and unet4nuclei.

Formulas and their sources: docs/accuracy.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError

#: Overlaps of two objects with a larger IoU count as part of a split or a merge.
TOUCH_IOU = 0.1


@dataclass(frozen=True)
class Score:
    """Counts of matched, additional and missed objects, and ``average_precision`` in [0, 1]."""

    true_positives: int
    false_positives: int
    false_negatives: int
    average_precision: float


@dataclass(frozen=True)
class Accuracy:
    """Agreement of one mask with its truth.

    ``at_50`` and ``at_75`` are the scores at these IoU thresholds. ``mean_matched_iou`` is the
    mean IoU of the pairs matched at 0.5, None where there is none. ``split`` counts truth objects
    that several mask objects touch, ``merged`` mask objects that touch several of the truth.
    """

    at_50: Score
    at_75: Score
    mean_matched_iou: float | None
    split: int
    merged: int

    @property
    def missed(self) -> int:
        """Truth objects that no mask object matches at 0.5."""
        return self.at_50.false_negatives


class _Overlaps(NamedTuple):
    """The pairs of objects that overlap: index in truth, index in mask and IoU of each.

    Only these pairs are kept: a table of 20 000 by 20 000 objects would not fit.
    """

    truth_count: int
    mask_count: int
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    ious: npt.NDArray[np.float64]


def compute_accuracy(truth: npt.NDArray[Any], mask: npt.NDArray[Any], planes: int = 1) -> Accuracy:
    """Compare ``mask`` with ``truth``.

    Each plane has its own ids in the mask, and perhaps in the truth, so equal ids in two planes are
    two objects.

    Args:
        truth: Integer labels with any number of axes; 0 is background.
        mask: Integer labels of the same shape.
        planes: Number of planes of a stack, the product of its leading axes; 1 for a single image
            or a volume.

    Raises:
        InputError: The shapes differ, or the values are not labels.
    """
    overlaps = _overlaps_of_stack(truth, mask, planes)
    matched_ious = _matched_ious(overlaps, 0.5)
    touching = overlaps.ious > TOUCH_IOU
    return Accuracy(
        at_50=_score(overlaps, 0.5),
        at_75=_score(overlaps, 0.75),
        mean_matched_iou=float(matched_ious.mean()) if len(matched_ious) else None,
        split=_count_repeated(overlaps.rows[touching]),
        merged=_count_repeated(overlaps.columns[touching]),
    )


def score(truth: npt.NDArray[Any], mask: npt.NDArray[Any], iou_threshold: float = 0.5) -> Score:
    """Return the counts and the average precision of ``mask`` at one IoU threshold.

    Average precision is TP / (TP + FP + FN), with TP the one-to-one pairs of objects whose
    IoU = overlap / union is at least ``iou_threshold``. For two empty images it is 1.0.

    The function does not solve an assignment problem: an object shares more than half of itself
    with a partner of IoU > 0.5, so it has at most one partner, and ``iou_threshold`` must be in
    [0.5, 1]. At an IoU of exactly 0.5 an object may have two halves as partners; only one counts.

    Args:
        truth: Integer labels with any number of axes; 0 is background.
        mask: Integer labels of the same shape.
        iou_threshold: The smallest IoU of a pair, from 0.5 to 1.

    Raises:
        InputError: The shapes differ, or the values are not labels.
        ValueError: The threshold is outside [0.5, 1].
    """
    if not 0.5 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold {iou_threshold}, expected 0.5 to 1")
    return _score(_overlaps_of_stack(truth, mask, planes=1), iou_threshold)


def pooled_precision(scores: Sequence[Score]) -> float:
    """Return the average precision over the objects of all images, as if they were one image."""
    counts = [(each.true_positives, each.false_positives, each.false_negatives) for each in scores]
    return _precision(*(sum(column) for column in zip(*counts, strict=True)))


def mean_precision(scores: Sequence[Score]) -> float:
    """Return the mean average precision over images, each with the same weight."""
    return statistics.fmean(each.average_precision for each in scores)


def _score(overlaps: _Overlaps, iou_threshold: float) -> Score:
    matched = len(_matched_ious(overlaps, iou_threshold))
    additional, missed = overlaps.mask_count - matched, overlaps.truth_count - matched
    return Score(matched, additional, missed, _precision(matched, additional, missed))


def _precision(matched: int, additional: int, missed: int) -> float:
    total = matched + additional + missed
    return matched / total if total else 1.0


def _matched_ious(overlaps: _Overlaps, iou_threshold: float) -> npt.NDArray[np.float64]:
    """Return the IoU of each one-to-one pair.

    Two possible partners of an object both have an IoU of 0.5, so it does not matter which is used.
    """
    accepted = np.flatnonzero(overlaps.ious >= iou_threshold)
    _, one_per_truth = np.unique(overlaps.rows[accepted], return_index=True)
    accepted = accepted[one_per_truth]
    _, one_per_mask = np.unique(overlaps.columns[accepted], return_index=True)
    return overlaps.ious[accepted[one_per_mask]]


def _count_repeated(indices: npt.NDArray[np.intp]) -> int:
    return int(np.count_nonzero(np.unique(indices, return_counts=True)[1] > 1))


def _overlaps_of_stack(truth: npt.NDArray[Any], mask: npt.NDArray[Any], planes: int) -> _Overlaps:
    """Return the overlaps of all planes, treating equal ids of two planes as two objects."""
    _check_labels(truth, mask)
    stack_ndim = 0
    while math.prod(mask.shape[:stack_ndim]) < planes:
        stack_ndim += 1
    overlaps = [_overlaps(truth[at], mask[at]) for at in np.ndindex(mask.shape[:stack_ndim])]
    rows_before = np.cumsum([0, *(each.truth_count for each in overlaps)])
    columns_before = np.cumsum([0, *(each.mask_count for each in overlaps)])
    return _Overlaps(
        int(rows_before[-1]),
        int(columns_before[-1]),
        np.concatenate([each.rows + n for each, n in zip(overlaps, rows_before, strict=False)]),
        np.concatenate(
            [each.columns + n for each, n in zip(overlaps, columns_before, strict=False)]
        ),
        np.concatenate([each.ious for each in overlaps]),
    )


def _overlaps(truth: npt.NDArray[Any], mask: npt.NDArray[Any]) -> _Overlaps:
    truth_ids, truth_areas = np.unique(truth[truth != 0], return_counts=True)
    mask_ids, mask_areas = np.unique(mask[mask != 0], return_counts=True)
    both = (truth != 0) & (mask != 0)
    rows = np.searchsorted(truth_ids, truth[both])
    columns = np.searchsorted(mask_ids, mask[both])
    pairs, shared_areas = np.unique(rows * max(len(mask_ids), 1) + columns, return_counts=True)
    rows, columns = np.divmod(pairs, max(len(mask_ids), 1))
    unions = truth_areas[rows] + mask_areas[columns] - shared_areas
    return _Overlaps(len(truth_ids), len(mask_ids), rows, columns, shared_areas / unions)


def _check_labels(truth: npt.NDArray[Any], mask: npt.NDArray[Any]) -> None:
    for name, labels in (("truth", truth), ("mask", mask)):
        if labels.dtype.kind not in "ui":
            raise InputError(f"{name}: pixel type {labels.dtype}, expected integer labels")
        if labels.dtype.kind == "i" and labels.size and int(np.min(labels)) < 0:
            raise InputError(f"{name}: label {np.min(labels)}, expected labels of 0 or more")
    if truth.shape != mask.shape:
        raise InputError(f"truth: shape {truth.shape}, expected the mask's shape {mask.shape}")
