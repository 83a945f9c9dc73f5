"""Images of 16 384 and 30 000 pixels a side in tiles: memory, time, and the mask against the whole.

``python bench/large.py 16384`` compares with the engine given the whole image in one piece (which
takes some 20 GB); for other sizes, and with --no-whole, only the client is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from figures import Figures

from samcourier.deploy.local.start import ensure_local_service, stop_local_service
from samcourier.files.atomic import write_private
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path
from samservice.engines.watershed import WatershedEngine

PIXELS_PER_CELL = 16384**2 / 100_000
_REACH = 24


def write_slide(path: Path, side_px: int) -> int:
    """Write cells at random places on noise, a quarter of the image blank; return their number.

    Each is a disc with a soft edge, 12 to 28 pixels across. Where they fall on one another they
    touch or merge, as nuclei in a section do.
    """
    rng = np.random.default_rng(5)
    image = tifffile.memmap(path, shape=(side_px, side_px), dtype="uint16", bigtiff=True)
    y, x = np.ogrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1]
    square = (y**2 + x**2).astype(np.float32)
    spots = [np.exp(-((square / r**2) ** 2)) for r in np.linspace(6, 14, 32)]
    count = round(side_px**2 / PIXELS_PER_CELL)
    cells = rng.integers(_REACH, side_px - _REACH - 1, (count, 2))
    cells = cells[np.argsort(cells[:, 0])]
    for at_y, at_x in cells:
        spot = spots[rng.integers(32)] * rng.uniform(500, 4000)
        rows = slice(at_y - _REACH, at_y + _REACH + 1)
        image[rows, at_x - _REACH : at_x + _REACH + 1] += spot.astype(np.uint16)
    for top in range(0, side_px, 1024):
        band = image[top : top + 1024]
        noise = rng.standard_normal(band.shape, np.float32)
        band += (300 + 20 * noise).astype(np.uint16)
    image.flush()
    return count


def _reported(arguments: list[str]) -> dict[str, Any]:
    """Run this file in a process of its own and return what it reports, its memory included."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _report(seconds: float) -> None:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mib": peak_kb / 1024}))


def whole_main(image: Path, out: Path) -> None:
    """Give the engine the whole image, in this process."""
    start_s = time.perf_counter()
    np.save(out, WatershedEngine().segment(tifffile.imread(image), "YX", {}))
    _report(time.perf_counter() - start_s)


def client_main(arguments: list[str]) -> None:
    """Be the client, in this process."""
    from samcourier.cli import main

    start_s = time.perf_counter()
    try:
        main(["segment", *arguments])
    except SystemExit as end:
        if end.code:
            raise
    _report(time.perf_counter() - start_s)


def compare(mask: zarr.Array[Any], whole: np.ndarray) -> tuple[int, int]:
    """Return how many objects of the whole image there are, and how many came back the same.

    The same is every pixel: the object's pixels have one id, and that id no other pixel.
    """
    partners: dict[int, set[int]] = {}
    back: dict[int, set[int]] = {}
    for top in range(0, whole.shape[0], 1024):
        found = np.asarray(mask[top : top + 1024], np.uint64)
        codes = np.unique(found << np.uint64(32) | whole[top : top + 1024])
        for code in codes.tolist():
            partners.setdefault(code & 0xFFFFFFFF, set()).add(code >> 32)
            back.setdefault(code >> 32, set()).add(code & 0xFFFFFFFF)
    same = sum(
        len(ids) == 1 and back[next(iter(ids))] == {number}
        for number, ids in partners.items()
        if number
    )
    return len(partners.keys() - {0}), same


def measure(side_px: int, with_whole: bool, scratch: Path) -> Figures:
    """Segment one slide in tiles through a local service, and whole."""
    figures = Figures(f"large_{side_px}")
    image, results = scratch / "slide.tif", scratch / "results"
    figures.add("cells_drawn", write_slide(image, side_px), "cells")
    endpoint = ensure_local_service(scratch / "service", "watershed", {})
    try:
        token_file = scratch / "token"
        write_private(token_file, str(endpoint.token))
        client = _reported(
            [
                *("client", str(image), "--dataset-dir", str(results), "--target", "existing"),
                *("--server-url", endpoint.server_url, "--workspace", endpoint.workspace),
                *("--service-id", endpoint.service_id, "--token-file", str(token_file)),
            ]
        )
    finally:
        stop_local_service(scratch / "service")
    log = read_image_log(log_path(results, "slide"))
    assert log is not None
    figures.add("tiles", log.tiles, "tiles")
    figures.add("objects", log.object_count or 0, "objects")
    figures.add("tiled_seconds", client["seconds"], "s")
    figures.add("client_peak_memory", client["peak_mib"], "MiB")
    figures.add("client_read_and_statistics", log.seconds.read or 0, "s")
    figures.add("client_write", log.seconds.write or 0, "s")
    figures.details["note"] = log.note
    figures.write()
    if with_whole:
        whole = _reported(["whole", str(image), str(scratch / "whole.npy")])
        figures.add("whole_seconds", whole["seconds"], "s")
        figures.add("whole_peak_memory", whole["peak_mib"], "MiB")
        labels = np.load(scratch / "whole.npy", mmap_mode="r")
        array = zarr.open_array(mask_path(results, "slide") / "0", mode="r")
        count, same = compare(array, labels)
        figures.add("objects_of_the_whole", count, "objects")
        figures.add("objects_the_same_to_the_pixel", same, "objects")
    return figures


def main() -> None:
    match sys.argv[1:]:
        case ["whole", image, out]:
            whole_main(Path(image), Path(out))
        case ["client", *arguments]:
            client_main(arguments)
        case _:
            parser = argparse.ArgumentParser()
            parser.add_argument("side_px", type=int, nargs="?", default=16384)
            parser.add_argument("--no-whole", action="store_true")
            options = parser.parse_args()
            with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
                is_comparable = options.side_px**2 <= 16384**2 and not options.no_whole
                measure(options.side_px, is_comparable, Path(name)).publish()


if __name__ == "__main__":
    main()
