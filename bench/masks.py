"""Writing one large mask: samcourier against ome-zarr's own writer, side by side in one run.

4096 x 4096 uint32, 20 000 cells, five levels, OME-Zarr 0.4 and 0.5, to the same disk in turns;
samcourier also reads back and compares what it wrote, counts and digests it.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ome_zarr.format
import ome_zarr.writer
import zarr
from figures import Figures

from samcourier.masks.integrity import OmeZarrVersion
from samcourier.masks.omezarr import write_mask

EDGE_PX = 4096
CELLS = 20_000
LEVELS = 5
ROUNDS = 7


def cells() -> np.ndarray:
    """Return round cells of 8 to 13 pixels radius on a grid, ids from 1."""
    random = np.random.default_rng(0)
    mask = np.zeros((EDGE_PX, EDGE_PX), np.uint32)
    a_row = int(np.ceil(CELLS**0.5))
    pitch = EDGE_PX / a_row
    y, x = np.mgrid[-13:14, -13:14]
    for number in range(CELLS):
        row, column = divmod(number, a_row)
        top, left = int((row + 0.5) * pitch) - 13, int((column + 0.5) * pitch) - 13
        inside = y**2 + x**2 < random.uniform(8, 13) ** 2
        clipped = np.s_[max(top, 0) : top + 27, max(left, 0) : left + 27]
        part = mask[clipped]
        part[inside[-part.shape[0] :, -part.shape[1] :]] = number + 1
    return mask


def with_samcourier(ome_zarr: OmeZarrVersion) -> Callable[[Path, np.ndarray], None]:
    def write(folder: Path, mask: np.ndarray) -> None:
        write_mask(folder / "cells.ome.zarr", mask, "YX", provenance={}, ome_zarr=ome_zarr)

    return write


def with_ome_zarr(fmt: ome_zarr.format.Format) -> Callable[[Path, np.ndarray], None]:
    """Return ome-zarr's writer with its own levels, method and compression, in chunks of 1024²."""

    def write(folder: Path, mask: np.ndarray) -> None:
        group = zarr.open_group(folder / "image.ome.zarr", mode="w", zarr_format=fmt.zarr_format)
        options = {"chunks": (1024, 1024)}
        ome_zarr.writer.write_labels(
            mask, group, "cells", axes="yx", fmt=fmt, storage_options=options
        )

    return write


def seconds_of(write: Callable[[Path, np.ndarray], None], mask: np.ndarray) -> float:
    folder = Path(tempfile.mkdtemp(dir="build"))
    try:
        start_s = time.perf_counter()
        write(folder, mask)
        seconds = time.perf_counter() - start_s
        check(folder, mask)
    finally:
        shutil.rmtree(folder)
    return seconds


def check(folder: Path, mask: np.ndarray) -> None:
    """Hold both to the same work: five levels, of which the first is the mask."""
    (store,) = [*folder.glob("cells.ome.zarr"), *folder.glob("image.ome.zarr/labels/cells")]
    group = zarr.open_group(store, mode="r")
    arrays = sorted(array.shape for _, array in group.arrays())
    expected = sorted((EDGE_PX >> level, EDGE_PX >> level) for level in range(LEVELS))
    names = sorted(name for name, _ in group.arrays())
    if arrays != expected or not np.array_equal(group[names[0]][...], mask):
        raise SystemExit(f"{store}: wrote {arrays}, expected {expected} and the same labels")


def main() -> None:
    Path("build").mkdir(exist_ok=True)
    mask = cells()
    figures = Figures("masks")
    writers = {
        "0.4": (with_samcourier("0.4"), with_ome_zarr(ome_zarr.format.FormatV04())),
        "0.5": (with_samcourier("0.5"), with_ome_zarr(ome_zarr.format.FormatV05())),
    }
    for version, (ours, theirs) in writers.items():
        taken: dict[str, list[float]] = {"samcourier": [], "ome_zarr": []}
        for _ in range(ROUNDS):
            taken["samcourier"].append(seconds_of(ours, mask))
            taken["ome_zarr"].append(seconds_of(theirs, mask))
        ratios = [b / a for a, b in zip(taken["samcourier"], taken["ome_zarr"], strict=True)]
        for name, seconds in taken.items():
            figures.add(f"{name}_{version}", statistics.median(seconds), "s")
        figures.add(f"speedup_{version}", statistics.median(ratios), "x")
        figures.details[version] = taken
    figures.publish()


if __name__ == "__main__":
    main()
