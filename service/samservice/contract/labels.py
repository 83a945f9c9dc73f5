"""Find the labels of a mask, and renumber them from 1 without gaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def present(mask: np.ndarray) -> npt.NDArray[np.intp]:
    """Return the distinct labels other than 0 of an unsigned integer mask of any shape, sorted.

    Marking each label in a table takes a tenth of the time of ``np.unique``, which sorts.
    ``np.unique`` serves only masks whose largest label exceeds their number of pixels.
    """
    largest = int(mask.max(initial=0))
    if largest > mask.size:
        labels: npt.NDArray[np.intp] = np.unique(mask).astype(np.intp)
        return labels[np.flatnonzero(labels)]
    is_present = np.zeros(largest + 1, dtype=bool)
    is_present[mask.ravel()] = True
    is_present[0] = False
    return np.flatnonzero(is_present)


def count_objects(mask: np.ndarray) -> int:
    """Return the number of distinct labels other than 0."""
    return len(present(mask))


def compacted(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, labels): the ids of a mask, and the mask with its ids numbered from 1.

    ``mask`` is an unsigned integer array of any shape. ``ids`` (n,), uint32, are its labels
    in order.
    ``labels`` has the shape of ``mask`` and holds n where ``mask`` holds ``ids[n - 1]``, so that a
    table indexed by label has one row per object. When the ids already are 1..n, ``labels`` is
    ``mask`` itself.
    """
    ids = present(mask)
    largest = int(ids[-1]) if len(ids) else 0
    if largest == len(ids):
        labels = mask
    elif largest > mask.size:
        labels = np.searchsorted(ids, mask, side="right").astype(np.uint32)
    else:
        label_of = np.zeros(largest + 1, np.uint32)
        label_of[ids] = np.arange(1, len(ids) + 1)
        labels = label_of[mask]
    return ids.astype(np.uint32), labels
