"""A folder of images: `samcourier segment` against micro-sam's own call, each from its start.

One process loops over the files with ``automatic_instance_segmentation`` and writes TIFF masks;
``samcourier segment`` does the same with a local service. Same weights, same machine, in turn, with
the start of Python, of micro-sam and of the service included. The masks are compared.

    python bench/folder.py
    python bench/folder.py --checkpoint build/bench/vit_b_random.pt --device cuda

The first is the small SAM of the tests, the second random weights of vit_b (``bench/engine.py``).
Random weights find no objects, so their masks and the time after the device are not those of cells.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import zarr
from figures import Figures

PLUGIN = Path(__file__).parents[1] / "tests" / "microsam" / "plugin"
SMALL = Path("build/microsam/small_model.pt")


def write_images(folder: Path, size_px: int, count: int) -> None:
    """Write images of drawn blobs, the patches of one image at other places in the next."""
    sys.path += [str(PLUGIN.parent), str(PLUGIN)]
    from make_small_model import SIDE_PX, draw_blobs

    patches = [draw_blobs(seed)[0] for seed in range(8)]
    times = size_px // SIDE_PX
    rng = np.random.default_rng(1)
    for number in range(count):
        rows = [
            np.concatenate([patches[at] for at in rng.integers(0, len(patches), times)], 1)
            for _ in range(times)
        ]
        tifffile.imwrite(folder / f"image_{number:03d}.tif", np.concatenate(rows))


def segment_by_micro_sam(options: argparse.Namespace) -> None:
    """Segment all files in one process, as micro-sam's documentation does it."""
    from samservice.engines import microsam_api

    if options.checkpoint == SMALL:
        from small_sam import load_small_sam

        device = microsam_api.util().get_device(options.device)
        predictor, decoder = load_small_sam(options.checkpoint, device)
        make = microsam_api.instance_segmentation().get_instance_segmentation_generator
        segmenter = make(predictor, False, decoder, "ais")
    else:
        predictor, segmenter = microsam_api.automatic_segmentation().get_predictor_and_segmenter(
            "vit_b", options.checkpoint, options.device, segmentation_mode="ais"
        )
    for path in sorted(options.own.glob("*.tif")):
        labels = microsam_api.automatic_segmentation().automatic_instance_segmentation(
            predictor, segmenter, tifffile.imread(path), ndim=2, verbose=False
        )
        tifffile.imwrite(
            options.out / path.name, labels.astype(np.uint32), compression="zlib", predictor=True
        )


def seconds_of(command: list[object], log: Path) -> float:
    """Return the seconds of a command; exit with its log when it fails."""
    path = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
    begin_s = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            [str(word) for word in command],
            env=os.environ | {"PYTHONPATH": path},
            stdout=file,
            stderr=file,
            check=False,
        )
    if done.returncode:
        sys.exit(log.read_text())
    return time.monotonic() - begin_s


def equal_masks(own: Path, masks: Path) -> int:
    """Return how many masks of the two folders are equal to the bit."""
    paths = sorted(own.glob("*.tif"))
    return sum(
        np.array_equal(
            tifffile.imread(path), np.squeeze(zarr.open(masks / f"{path.stem}.ome.zarr")["0"][:])
        )
        for path in paths
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=SMALL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=2048, help="side in pixels")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        segment_by_micro_sam(options)
        return
    engine_options = {"checkpoint": str(options.checkpoint.resolve()), "device": options.device}
    is_small = options.checkpoint == SMALL
    engine = "microsam-small" if is_small else "microsam"
    engine_options |= {"mode": "ais"} if is_small else {"mode": "ais", "model": "vit_b"}
    own_s, service_s = [], []
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        (images := scratch / "images").mkdir()
        write_images(images, options.size, options.images)
        for number in range(options.rounds):
            (own := scratch / f"own_{number}").mkdir()
            command: list[object] = [sys.executable, __file__, "--own", images, "--out", own]
            command += ["--checkpoint", options.checkpoint, "--device", options.device]
            own_s.append(seconds_of(command, scratch / "own.log"))
            results = scratch / f"results_{number}"
            command = [sys.executable, "-m", "samcourier.cli", "segment", images]
            command += ["--engine", engine, "--engine-options", json.dumps(engine_options)]
            command += ["--parameters", json.dumps({"normalization": "minmax"})]
            command += ["--batch-size", options.images, "--dataset-dir", results]
            service_s.append(seconds_of(command, scratch / "service.log"))
        equal = equal_masks(own, results / "masks")
    figures = Figures("folder")
    figures.add("micro_sam", options.images / statistics.median(own_s), "images/s")
    figures.add("samcourier", options.images / statistics.median(service_s), "images/s")
    ratios = [own / service for own, service in zip(own_s, service_s, strict=True)]
    figures.add("samcourier_over_micro_sam", statistics.median(ratios), "x")
    figures.add("equal_masks", equal, f"of {options.images} images")
    figures.details |= {"micro_sam_s": own_s, "samcourier_s": service_s}
    figures.details |= {"size_px": options.size, "device": options.device}
    figures.publish()


if __name__ == "__main__":
    main()
