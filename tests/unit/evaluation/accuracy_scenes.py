"""Pairs of truth and mask, and a script that computes their accuracy with StarDist.

The file ``accuracy_stardist.json`` has the output of the script. The tests read the file, since
StarDist needs numba (but no TensorFlow). To make the file again:

    pip install stardist==0.9.2 tifffile
    python tests/unit/evaluation/accuracy_scenes.py > tests/unit/evaluation/accuracy_stardist.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import Random

import numpy as np
import tifffile

REAL_TRUTH = Path(__file__).parents[4] / "shared" / "images" / "nuclei2d_mask.tif"

Scene = tuple[np.ndarray, np.ndarray]


def discs(seed: int) -> Scene:
    """Return a truth (160, 160) of random discs and a mask with errors of all kinds."""
    random = Random(seed)
    y, x = np.mgrid[:160, :160]
    truth, mask = np.zeros((160, 160), np.uint16), np.zeros((160, 160), np.uint16)
    for label in range(1, 31):
        row, column = (20 + int(random.random() * 120) for _ in range(2))
        radius, shift = 5 + int(random.random() * 10), int(random.random() * 6)
        truth[(y - row) ** 2 + (x - column) ** 2 < radius**2] = label
        disc = (y - row - shift) ** 2 + (x - column) ** 2 < radius**2
        fate = random.random()
        if fate > 0.15:
            mask[disc] = 100 - label if fate > 0.25 else 99
        if fate > 0.8:
            mask[disc & (x > column)] = 200 + label
    return truth, mask


def moved(pixels: int) -> Callable[[], Scene]:
    """Return real nuclei, and the same moved down by ``pixels``, two in seven merged or removed."""

    def scene() -> Scene:
        truth = tifffile.imread(REAL_TRUTH)
        mask = np.roll(truth, pixels, axis=0)
        mask[mask % 7 == 0] = 0
        mask[mask % 7 == 1] += 1
        return truth, mask

    return scene


SCENES: dict[str, Callable[[], Scene]] = {
    **{f"discs {seed}": lambda seed=seed: discs(seed) for seed in range(8)},
    **{f"nuclei2d moved {pixels} px": moved(pixels) for pixels in (0, 1, 3, 5)},
}


def _as_stardist_counts(truth: np.ndarray, mask: np.ndarray) -> dict[str, float | int]:
    from stardist.matching import (
        intersection_over_union,
        label_overlap,
        matching,
        relabel_sequential,
    )

    at_50, at_75 = (matching(truth, mask, thresh=threshold) for threshold in (0.5, 0.75))
    # The rule of unet4nuclei, on StarDist's table of IoUs.
    overlap = label_overlap(*(relabel_sequential(labels)[0] for labels in (truth, mask)))
    touching = intersection_over_union(overlap)[1:, 1:] > 0.1
    return {
        "ap50": float(at_50.accuracy),
        "ap75": float(at_75.accuracy),
        "mean_matched_iou": float(at_50.mean_matched_score),
        "found": int(at_50.tp),
        "invented": int(at_50.fp),
        "missed": int(at_50.fn),
        "split": int(np.sum(touching.sum(axis=1) > 1)),
        "merged": int(np.sum(touching.sum(axis=0) > 1)),
    }


if __name__ == "__main__":
    table = {name: _as_stardist_counts(*make()) for name, make in SCENES.items()}
    json.dump({"stardist": version("stardist"), "scenes": table}, sys.stdout, indent=1)
    print()
