"""Tests of the accuracy with hand-made masks, StarDist's counts, and a brute-force matching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samcourier.errors import InputError
from samcourier.evaluation.accuracy import (
    Score,
    compute_accuracy,
    mean_precision,
    pooled_precision,
    score,
)

from .accuracy_scenes import REAL_TRUTH, SCENES

STARDIST = json.loads(Path(__file__).with_name("accuracy_stardist.json").read_text())["scenes"]


def row(*labels: int) -> np.ndarray:
    return np.array([labels], np.uint16)


@pytest.mark.parametrize(
    ("truth", "mask", "expected"),
    [
        pytest.param(row(0, 0), row(0, 0), Score(0, 0, 0, 1.0), id="both empty agree"),
        pytest.param(row(0, 0), row(0, 1), Score(0, 1, 0, 0.0), id="invented"),
        pytest.param(row(0, 5), row(0, 0), Score(0, 0, 1, 0.0), id="missed"),
        pytest.param(row(1, 1, 0, 2), row(9, 9, 0, 4), Score(2, 0, 0, 1.0), id="other numbers"),
        pytest.param(row(1, 1, 1, 2), row(1, 1, 0, 0), Score(1, 0, 1, 0.5), id="one of two"),
        pytest.param(row(1, 1, 1, 0, 0), row(0, 1, 1, 1, 1), Score(0, 1, 1, 0.0), id="IoU 2/5"),
        pytest.param(row(1, 1, 0), row(1, 0, 0), Score(1, 0, 0, 1.0), id="IoU of exactly 1/2"),
        pytest.param(row(1, 1), row(1, 2), Score(1, 1, 0, 0.5), id="two halves of one: one counts"),
        pytest.param(row(1, 2), row(1, 1), Score(1, 0, 1, 0.5), id="one over two halves"),
        pytest.param(
            row(1, 1, 2, 3), row(1, 2, 3, 3), Score(2, 1, 1, 0.5), id="halves of both kinds"
        ),
        pytest.param(
            np.array([[0, 4_000_000_000]], np.uint32), row(0, 1), Score(1, 0, 0, 1.0), id="sparse"
        ),
    ],
)
def test_objects_are_counted_as_in_dsb2018(
    truth: np.ndarray, mask: np.ndarray, expected: Score
) -> None:
    assert score(truth, mask) == expected


def test_a_higher_threshold_accepts_fewer_pairs() -> None:
    truth, mask = row(1, 1, 1, 1, 2), row(1, 1, 1, 0, 2)
    assert score(truth, mask, 0.75).true_positives == 2
    assert score(truth, mask, 0.76).true_positives == 1


def brute_force(truth: np.ndarray, mask: np.ndarray) -> int:
    """Return the size of the largest one-to-one matching of pairs with IoU >= 0.5."""
    pairs = [
        (t, m)
        for t in np.unique(truth[truth > 0])
        for m in np.unique(mask[mask > 0])
        if 2 * np.sum((truth == t) & (mask == m)) >= np.sum((truth == t) | (mask == m))
    ]

    def best(remaining: list[tuple[int, int]]) -> int:
        if not remaining:
            return 0
        (t, m), *rest = remaining
        taken = 1 + best([(a, b) for a, b in rest if a != t and b != m])
        return max(taken, best(rest))

    return best(pairs)


LABELS = hnp.arrays(np.uint16, (3, 4), elements=st.integers(0, 4))


@settings(max_examples=50, deadline=None)
@given(truth=LABELS, mask=LABELS)
def test_the_sparse_count_equals_the_best_assignment(truth: np.ndarray, mask: np.ndarray) -> None:
    counted = score(truth, mask)
    objects = [len(np.unique(labels[labels > 0])) for labels in (truth, mask)]
    assert counted.true_positives == brute_force(truth, mask)
    assert counted.true_positives + counted.false_negatives == objects[0]
    assert counted.true_positives + counted.false_positives == objects[1]


def test_volumes_can_be_scored() -> None:
    truth = np.zeros((3, 4, 5), np.uint16)
    truth[:2, 1:3, 1:3] = 1
    assert score(truth, truth.astype(np.uint32)) == Score(1, 0, 0, 1.0)


@pytest.mark.parametrize("ids", ["in each plane", "over the stack", "in another order"])
def test_a_stack_has_the_accuracy_of_its_planes(ids: str) -> None:
    mask = np.zeros((3, 4, 6), np.uint32)
    mask[:, 1:3, 1:3], mask[:, 1:3, 4:6] = 1, 2
    truth = mask.astype(np.int64)
    if ids == "over the stack":
        truth[truth > 0] += 2 * np.arange(3).repeat(8)
    if ids == "in another order":
        truth[1] = np.where(truth[1] > 0, 3 - truth[1], 0)
    found = compute_accuracy(truth, mask, planes=3)
    assert (found.at_75, found.mean_matched_iou) == (Score(6, 0, 0, 1.0), 1.0)
    assert (found.split, found.merged) == (0, 0)
    truth[2] = 0
    assert compute_accuracy(truth, mask, planes=3).at_50 == Score(4, 2, 0, 4 / 6)


@pytest.mark.parametrize(
    ("truth", "mask", "message"),
    [
        (row(1, 2), row(1, 2, 3), r"truth: shape \(1, 2\), expected the mask's shape \(1, 3\)"),
        (np.ones((1, 2)), row(1, 2), "truth: pixel type float64, expected integer labels"),
        (row(1, 2), np.array([[1, -1]]), "mask: label -1, expected labels of 0 or more"),
    ],
)
def test_images_that_are_not_labels_are_refused(
    truth: np.ndarray, mask: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(truth, mask)


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.01, float("nan")])
def test_a_threshold_outside_one_half_to_one_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.5 to 1"):
        score(row(1), row(1), threshold)


@pytest.mark.parametrize("scene", SCENES)
def test_the_values_equal_those_of_stardist(scene: str) -> None:
    if scene.startswith("nuclei2d") and not REAL_TRUTH.exists():
        pytest.skip(f"no real images at {REAL_TRUTH}")
    found = compute_accuracy(*SCENES[scene]())
    counted: dict[str, Any] = {
        "ap50": found.at_50.average_precision,
        "ap75": found.at_75.average_precision,
        "mean_matched_iou": found.mean_matched_iou,
        "found": found.at_50.true_positives,
        "invented": found.at_50.false_positives,
        "missed": found.missed,
        "split": found.split,
        "merged": found.merged,
    }
    assert counted == pytest.approx(STARDIST[scene], rel=1e-6)


def test_the_stardist_values_cover_all_scenes_and_all_kinds_of_errors() -> None:
    assert STARDIST.keys() == SCENES.keys()
    for name in ("invented", "missed", "split", "merged"):
        assert sum(each[name] for each in STARDIST.values()) > 10


@pytest.mark.parametrize(
    ("truth", "mask", "split", "merged", "missed"),
    [
        pytest.param(row(1, 1, 1, 1), row(1, 1, 2, 2), 1, 0, 0, id="halves"),
        pytest.param(row(1, 1, 2, 2, 2), row(3, 3, 3, 3, 3), 0, 1, 1, id="joined"),
        pytest.param(
            row(*[1] * 9, 2), row(*[1] * 10), 0, 0, 1, id="an overlap of IoU 1/10 does not count"
        ),
        pytest.param(row(1, 1, 0, 2, 2), row(5, 5, 0, 6, 6), 0, 0, 0, id="apart"),
    ],
)
def test_split_and_merged_objects_are_counted(
    truth: np.ndarray, mask: np.ndarray, split: int, merged: int, missed: int
) -> None:
    found = compute_accuracy(truth, mask)
    assert (found.split, found.merged, found.missed) == (split, merged, missed)


def test_without_a_matched_pair_there_is_no_mean_iou() -> None:
    assert compute_accuracy(row(1, 0), row(0, 1)).mean_matched_iou is None
    assert compute_accuracy(row(0, 0), row(0, 0)).mean_matched_iou is None


def test_a_dataset_has_a_mean_over_images_and_a_precision_over_all_objects() -> None:
    scores = [score(row(1, 2, 3), row(1, 2, 3)), score(row(1), row(0))]
    assert mean_precision(scores) == 0.5
    assert pooled_precision(scores) == 0.75
