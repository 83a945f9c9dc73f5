"""The accuracy of the default engine against Otsu's threshold with a watershed, as a table.

Real images of ``../shared/images``, nuclei2d made worse, and generated images of ten seeds a cell.
Otsu's is the ``otsu.py`` of that folder; without the folder the benchmark ends with a message.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from figures import Figures
from nuclei_images import CELLS, degraded, generated

from samcourier.evaluation.accuracy import score
from samservice.engines.watershed import WatershedEngine

IMAGES = Path(__file__).parents[2] / "shared" / "images"
SEEDS = 10

Segment = Callable[[np.ndarray], np.ndarray]


def otsu_watershed() -> Segment:
    """Return the function that the engine is compared with."""
    spec = importlib.util.spec_from_file_location("otsu", IMAGES / "otsu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.otsu_watershed


def real_images() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, the pixels and the truth of each DAPI image."""
    for path in sorted((IMAGES / "dapi").glob("*_mask.tif")):
        name = path.stem.removesuffix("_mask")
        yield name, tifffile.imread(path.with_name(f"{name}.tif")), tifffile.imread(path)


def nuclei2d() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and the truth of nuclei2d."""
    return tuple(tifffile.imread(IMAGES / f"nuclei2d{end}.tif") for end in ("", "_mask"))


def scores(
    image: np.ndarray, truth: np.ndarray, methods: dict[str, Segment]
) -> dict[str, tuple[float, float]]:
    """Return (AP50, AP75) of each method."""
    masks = {name: segment(image) for name, segment in methods.items()}
    return {
        name: (
            score(truth, mask, 0.5).average_precision,
            score(truth, mask, 0.75).average_precision,
        )
        for name, mask in masks.items()
    }


def main() -> None:
    if not IMAGES.is_dir():
        raise SystemExit(f"{IMAGES}: no such folder, expected the real images and otsu.py")
    engine = WatershedEngine()
    methods: dict[str, Segment] = {
        "engine": lambda image: engine.segment(image, "YX", {}),
        "otsu": otsu_watershed(),
    }
    figures = Figures("watershed")
    rows: dict[str, dict[str, tuple[float, float]]] = {}

    def add(name: str, found: dict[str, tuple[float, float]]) -> None:
        rows[name] = found
        text = "  ".join(f"{each} {a:.3f} {b:.3f}" for each, (a, b) in found.items())
        print(f"{name:34s} AP50 AP75: {text}", flush=True)

    def mean(parts: list[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
        return {
            name: tuple(statistics.fmean(part[name][at] for part in parts) for at in (0, 1))
            for name in methods
        }

    for name, image, truth in real_images():
        add(name, scores(image, truth, methods))
    add("dapi, mean", mean(list(rows.values())))
    image, truth = nuclei2d()
    add("nuclei2d", scores(image, truth, methods))
    for name, worse in degraded(image):
        add(f"nuclei2d, {name}", scores(worse, truth, methods))
    cells = {}
    for cell in CELLS:
        found = [scores(*generated(cell, seed), methods) for seed in range(SEEDS)]
        cells[cell] = mean(found)
        add(" ".join(map(str, cell)), cells[cell])
    add("generated, mean", mean(list(cells.values())))
    for name in ("dapi, mean", "nuclei2d", "generated, mean"):
        for method, pair in rows[name].items():
            for threshold, value in zip(("50", "75"), pair, strict=True):
                short = name.replace(", mean", "")
                figures.add(f"{short}_ap{threshold}_{method}", value, "AP")
    margins = [found["engine"][0] - found["otsu"][0] for found in cells.values()]
    figures.add("generated_worst_margin", min(margins), "AP")
    large = np.tile(image, (4, 4))
    start_s = time.process_time()
    methods["engine"](large)
    figures.add("seconds_2048", time.process_time() - start_s, "CPU-s")
    figures.details["rows"] = {name: dict(found) for name, found in rows.items()}
    figures.publish()


if __name__ == "__main__":
    main()
