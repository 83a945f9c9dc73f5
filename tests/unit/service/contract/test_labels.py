"""Labels are counted right, however sparse their ids."""

from __future__ import annotations

import numpy as np
import pytest

from samservice.contract.labels import compacted, count_objects


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ([], 0),
        ([0], 0),
        ([5], 1),
        ([0, 0, 1, 2, 2], 2),
        ([1, 2, 3], 3),
        ([0, 4_294_967_295, 7, 7], 2),
        ([4_294_967_295], 1),
    ],
)
def test_count(labels: list[int], count: int) -> None:
    assert count_objects(np.array(labels, np.uint32)) == count


def test_both_ways_of_counting_agree() -> None:
    rng = np.random.default_rng(1)
    dense = rng.integers(0, 500, (64, 64)).astype(np.uint32)
    sparse = dense * np.uint32(1_000_003)
    assert count_objects(dense) == count_objects(sparse) == len(set(dense.ravel()) - {0})


@pytest.mark.parametrize(
    ("mask", "ids", "labels"),
    [
        ([[0, 2], [1, 2]], [1, 2], [[0, 2], [1, 2]]),
        ([[0, 3], [1, 3]], [1, 3], [[0, 2], [1, 2]]),
        ([[4, 3], [4, 3]], [3, 4], [[2, 1], [2, 1]]),
        ([[0, 9], [7, 9]], [7, 9], [[0, 2], [1, 2]]),
        ([[4_294_967_295, 9]], [9, 4_294_967_295], [[2, 1]]),
        ([[0, 0]], [], [[0, 0]]),
    ],
)
def test_ids_become_labels_from_1_without_gaps(
    mask: list[list[int]], ids: list[int], labels: list[list[int]]
) -> None:
    found, compact = compacted(np.array(mask, np.uint32))
    assert (found.tolist(), compact.tolist()) == (ids, labels)
    assert compact.dtype == found.dtype == np.uint32
