"""How a run grows with its images: the DAG, the run, a rerun that has nothing to do, its check.

Images of 512 x 512 uint16 in batches of 25, a canned service that answers at once, 8 jobs. The
images are hard links to a few files. ``--linked SIZE`` makes a size's masks without calls, as hard
links to one mask: Snakemake's part of a run that would take too long otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import yaml
from canned_service import running_canned_service
from figures import Figures

from samcourier.transports import Endpoint

REPO = Path(__file__).parents[1]
EDGE_PX = 512
DISTINCT_IMAGES = 32
BATCH_SIZE = 25
JOBS = 8
LINKED_SAMCOURIER = Path(__file__).with_name("linked_samcourier.py")


@dataclass(frozen=True)
class Measured:
    """One snakemake with its jobs: seconds, CPU seconds, and its largest process's memory."""

    seconds: float
    cpu_s: float
    peak_mib: float


def write_images(directory: Path) -> tuple[list[Path], Path]:
    """Return the image files, blobs on noise, and a mask of 512 x 512 with as many objects."""
    directory.mkdir()
    y, x = np.mgrid[:EDGE_PX, :EDGE_PX]
    is_object = (y % 32 - 16) ** 2 + (x % 32 - 16) ** 2 < 90
    mask = (y // 32 * (EDGE_PX // 32) + x // 32 + 1) * is_object
    paths = [directory / f"{number:02d}.tif" for number in range(DISTINCT_IMAGES)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).normal(300, 20, mask.shape)
        tifffile.imwrite(path, (noise + 900 * (mask > 0)).astype(np.uint16))
    mask_path = directory / "mask.tif"
    tifffile.imwrite(mask_path, mask.astype(np.uint16))
    return paths, mask_path


def write_project(directory: Path, size: int, images: list[Path], endpoint: Endpoint) -> None:
    """Write a user's folder: ``size`` images, their sheet and the config."""
    (directory / "config").mkdir(parents=True)
    (directory / "data").mkdir()
    lines = ["image\tpath"]
    for number in range(size):
        path = f"data/i{number:06d}.tif"
        os.link(images[number % len(images)], directory / path)
        lines.append(f"i{number:06d}\t{path}")
    (directory / "config/images.tsv").write_text("\n".join(lines) + "\n")
    service = {"target": "existing", "server_url": endpoint.server_url}
    service |= {"workspace": endpoint.workspace, "service_id": endpoint.service_id}
    config = {"dataset": "scale", "sheet": "config/images.tsv", "batch_size": BATCH_SIZE}
    (directory / "config/config.yaml").write_text(yaml.safe_dump({**config, "service": service}))


def snakemake(directory: Path, environment: dict[str, str], *arguments: str) -> Measured:
    words = ["snakemake", "-s", str(REPO / "Snakefile"), "--cores", str(JOBS), *arguments]
    return run_measured(directory, environment, words)


def run_measured(directory: Path, environment: dict[str, str], words: list[str]) -> Measured:
    """Run it to its end; what it said lies in command.log. Ends the benchmark if it fails."""
    start_s = time.perf_counter()
    with (directory / "command.log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(words[0])), *words[1:]],
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=log,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((directory / "command.log").read_text()[-4000:])
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(time.perf_counter() - start_s, cpu_s, usage.ru_maxrss / 1024)


def count_files(directory: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(directory))


def linked_environment(scratch: Path, environment: dict[str, str], model: Path) -> dict[str, str]:
    """Return an environment whose samcourier links masks to those of the finished ``model``."""
    command = scratch / "bin/samcourier"
    command.parent.mkdir(exist_ok=True)
    real = Path(sys.executable).with_name("samcourier")
    words = shlex.join([sys.executable, str(LINKED_SAMCOURIER)])
    command.write_text(
        f'#!/bin/sh\ncase "$1" in batch) exec {words} "$@";; *) exec {real} "$@";; esac\n'
    )
    command.chmod(0o755)
    path = f"{command.parent}:{environment['PATH']}"
    return environment | {"PATH": path, "SAMCOURIER_BENCH_MODEL": str(model)}


def measure(
    size: int, is_linked: bool, endpoint: Endpoint, scratch: Path, figures: Figures
) -> None:
    images = sorted((scratch / "images").glob("[0-9]*.tif"))
    directory = scratch / f"n{size}"
    write_project(directory, size, images, endpoint)
    environment = os.environ | {"HYPHA_TOKEN": endpoint.token or ""}
    # As users have it: what is imported once is not compiled again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if is_linked:
        model = scratch / f"n{DISTINCT_IMAGES}"
        write_project(model, DISTINCT_IMAGES, images, endpoint)
        snakemake(model, environment, "--quiet")
        environment = linked_environment(scratch, environment, model / "results/scale")

    def keep(name: str, measured: Measured) -> None:
        figures.add(f"{size}_{name}", measured.seconds, "s")
        figures.add(f"{size}_{name}_cpu", measured.cpu_s, "CPU-s")
        figures.add(f"{size}_{name}_peak", measured.peak_mib, "MiB")
        figures.publish_last(3)

    keep("dry_run", snakemake(directory, environment, "--dry-run", "--quiet"))
    run = snakemake(directory, environment, "--quiet")
    keep("linked_run" if is_linked else "run", run)
    if not is_linked:
        figures.add(f"{size}_run_per_image", 1000 * run.seconds / size, "ms")
        figures.add(f"{size}_run_per_image_cpu", 1000 * run.cpu_s / size, "CPU-ms")
        figures.publish_last(2)
    nothing = snakemake(directory, environment, "--quiet")
    keep("rerun", nothing)
    if not is_linked:
        keep(
            "check", run_measured(directory, environment, ["samcourier", "check", "results/scale"])
        )
    figures.add(f"{size}_files", count_files(directory / "results"), "files")
    figures.add(f"{size}_snakemake_files", count_files(directory / ".snakemake"), "files")
    figures.publish_last(2)
    complete = json.loads((directory / "results/scale/complete.json").read_text())
    if complete["image_count"] != size:
        sys.exit(f"{complete['image_count']} images are complete, expected {size}")
    shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, action="append", default=[], help="images of a run")
    parser.add_argument("--linked", type=int, action="append", default=[], help="without calls")
    options = parser.parse_args()
    sizes = options.size or ([] if options.linked else [1000, 10_000])
    figures = Figures("scale")
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        _, mask = write_images(scratch / "images")
        with running_canned_service(mask, scratch) as endpoint:
            for size in sizes:
                measure(size, False, endpoint, scratch, figures)
            for size in options.linked:
                measure(size, True, endpoint, scratch, figures)


if __name__ == "__main__":
    main()
