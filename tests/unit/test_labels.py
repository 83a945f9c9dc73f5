"""Labels are counted right, however sparse their ids."""

from __future__ import annotations

import numpy as np
import pytest

from samservice.labels import count_objects


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
