"""A foreground cuts masks of any size; those larger than memory are cut as they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samcourier.masks.foreground import ClippedMask, Foreground

MASK = np.arange(2 * 3000 * 5, dtype=np.uint32).reshape(2, 3000, 5) // 7
INSIDE = np.arange(3000 * 5).reshape(3000, 5) % 3 > 0


class MadeAsRead:
    """A mask that is no array, as that of an image in tiles."""

    shape, dtype = MASK.shape, MASK.dtype

    def __getitem__(self, block: Any) -> Any:
        return MASK[block]


@pytest.mark.parametrize("inside", [INSIDE, np.stack([INSIDE, ~INSIDE])], ids=["plane", "stack"])
@pytest.mark.parametrize("mask", [MASK, MadeAsRead()], ids=["array", "made as it is read"])
def test_a_stack_is_cut_and_its_planes_are_counted_apart(mask: Any, inside: np.ndarray) -> None:
    cut = Foreground(inside, "").clip(mask, stack_ndim=1)
    expected = np.where(inside, MASK, 0)
    assert isinstance(cut.mask, ClippedMask) is not isinstance(mask, np.ndarray)
    np.testing.assert_array_equal(cut.mask[...], expected)
    block = slice(1, 2), slice(1000, 1700), slice(0, 5)
    np.testing.assert_array_equal(cut.mask[block], expected[block])
    assert cut.object_count == sum(len(np.unique(plane[plane > 0])) for plane in expected)
    whole = Foreground(inside, "").clip(mask, stack_ndim=0)
    assert whole.object_count == len(np.unique(expected[expected > 0]))
