"""The figures of the default engine in the docs are those that it reaches."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.evaluation.accuracy import compute_accuracy
from samservice.engines.watershed import WatershedEngine

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from nuclei_images import CELLS, degraded, generated

REPO = Path(__file__).parents[3]
IMAGES = REPO.parent / "shared" / "images"
PAGE = (REPO / "docs/watershed.md").read_text()
#: Other versions of scipy and numpy may move single pixels.
TOLERANCE = 0.01
#: The table has ten seeds, the test one.
TOLERANCE_OF_A_SEED = 0.06

ENGINE = WatershedEngine()

needs_images = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="no shared/images folder beside the repository"
)


def stated(columns: int) -> dict[str, list[float]]:
    """Return the rows of the page's tables whose last ``columns`` cells are figures."""
    rows: dict[str, list[float]] = {}
    for line in PAGE.splitlines():
        *names, figures = re.split(r" \| (?=[01]\.\d)", line.strip("| "), maxsplit=1)
        if names and len(cells := figures.split(" | ")) == columns:
            rows[names[0]] = [float(each) for each in cells]
    return rows


def otsu_watershed() -> Callable[[np.ndarray], np.ndarray]:
    spec = importlib.util.spec_from_file_location("otsu", IMAGES / "otsu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.otsu_watershed


def pair(truth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    found = compute_accuracy(truth, mask)
    return found.at_50.average_precision, found.at_75.average_precision


def nuclei2d() -> tuple[np.ndarray, np.ndarray]:
    image, truth = (tifffile.imread(IMAGES / f"nuclei2d{end}.tif") for end in ("", "_mask"))
    return image, truth


@needs_images
@pytest.mark.filterwarnings("ignore:Parameter `min_size`:FutureWarning")
def test_real_images_and_their_table() -> None:
    rows, otsu = stated(4), otsu_watershed()
    found: dict[str, list[float]] = {}

    def add(name: str, image: np.ndarray, truth: np.ndarray) -> None:
        engine, other = pair(truth, ENGINE.segment(image, "YX", {})), pair(truth, otsu(image))
        found[name] = [engine[0], other[0], engine[1], other[1]]

    for path in sorted((IMAGES / "dapi").glob("*_mask.tif")):
        name = path.stem.removesuffix("_mask")
        add(name, tifffile.imread(path.with_name(f"{name}.tif")), tifffile.imread(path))
    found["dapi, mean"] = np.mean(list(found.values()), axis=0).tolist()
    image, truth = nuclei2d()
    add("nuclei2d", image, truth)
    for name, worse in degraded(image):
        add(f"nuclei2d, {name}", worse, truth)
    assert found.keys() == rows.keys()
    for name, figures in found.items():
        # One object of mixed_d is a twelfth.
        tolerance = TOLERANCE if "," in name or "2d" in name else 0.1
        assert figures == pytest.approx(rows[name], abs=tolerance), name
    engine_50, _, engine_75, _ = found["dapi, mean"]
    assert engine_50 >= 0.83 - TOLERANCE and engine_75 >= 0.70
    for name, (engine, other, *_) in found.items():
        if "2d" in name:
            assert engine >= other, name


@needs_images
def test_nuclei2d_and_the_sentence_about_it() -> None:
    image, truth = nuclei2d()
    mask = ENGINE.segment(image, "YX", {})
    found = compute_accuracy(truth, mask)
    text = " ".join((REPO / "docs/accuracy.md").read_text().split())
    sentence = re.search(
        r"version (\d+) of the engine: (\d+) objects, AP50 ([\d.]+), AP75 ([\d.]+), IoU ([\d.]+),"
        r" (\d+) missed, (\d+) split and (\d+) merged",
        text,
    )
    assert sentence is not None
    version, *figures = (float(each) for each in sentence.groups())
    assert version == ENGINE.describe()["segmentation_version"]
    reached = [
        mask.max() / 125,
        found.at_50.average_precision,
        found.at_75.average_precision,
        found.mean_matched_iou,
        found.missed / 125,
        found.split / 125,
        found.merged / 125,
    ]
    counts = (0, 4, 5, 6)
    expected = [each / 125 if at in counts else each for at, each in enumerate(figures)]
    assert reached == pytest.approx(expected, abs=TOLERANCE)


def test_generated_images_and_their_table() -> None:
    """Nuclei of 24 px in one seed: each background and noise, as the mean over the densities."""
    rows = stated(6)
    found: dict[str, list[float]] = {}
    for cell in CELLS:
        if cell.diameter_px == 24:
            image, truth = generated(cell, seed=0)
            accuracy = pair(truth, ENGINE.segment(image, "YX", {}))[0]
            found.setdefault(f"{cell.noise} | {cell.background}", []).append(accuracy)
    assert found.keys() == rows.keys() and len(rows) == 12
    for name, figures in found.items():
        assert np.mean(figures) == pytest.approx(rows[name][2], abs=TOLERANCE_OF_A_SEED), name
