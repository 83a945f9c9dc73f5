"""What the command line costs before it works: ``--help``, and a batch until its first image.

A batch is measured with each transport, and as the next batch of a run, which finds what the one
before measured of the transports (``batch_next``, transport auto). Seconds of CPU, or ``elapsed``,
medians of rounds in which every case runs once.
``--compare-with PYTHON`` names the interpreter of another checkout's environment, whose start is
measured in the same rounds. Bytecode is compiled once, in a first round that does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from canned_service import running_canned_service
from figures import Figures

from samcourier.transports import Endpoint

EDGE_PX = 128
#: Enough that looking at the other transports pays.
BATCH_SIZE = 8
POLL_S = 0.0005
BATCH_TIMEOUT_S = 60
#: Name, transport and batch; those of one transport share a results folder.
CASES = (
    *((name, name, "0001") for name in ("auto", "websocket", "http")),
    ("next", "auto", "0002"),
)


def finished_cpu_s(command: list[object], environment: dict[str, str]) -> float:
    """Run a command to its end and return the seconds of CPU that it took."""
    process = subprocess.Popen(
        [str(part) for part in command], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} exited with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def batch_start(
    command: list[object], environment: dict[str, str], busy_log: Path, scratch: Path
) -> tuple[float, float]:
    """Return the seconds of CPU and of the clock that a batch takes until its image is served.

    The service writes a line to ``busy_log`` as soon as it has the image; its own work is none.
    """
    served_before = busy_log.stat().st_size if busy_log.exists() else 0
    start_s = time.perf_counter()
    with (scratch / "batch.log").open("w") as log:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=log, stderr=log
        )
        # clock_getcpuclockid(3), which Python has for threads only: all of a process's threads.
        clock = (~process.pid << 3) | 2
        while not busy_log.exists() or busy_log.stat().st_size == served_before:
            if process.poll() is not None or time.perf_counter() - start_s > BATCH_TIMEOUT_S:
                process.kill()
                sys.exit((scratch / "batch.log").read_text())
            time.sleep(POLL_S)
        cpu_s, elapsed_s = time.clock_gettime(clock), time.perf_counter() - start_s
        if process.wait(BATCH_TIMEOUT_S):
            sys.exit((scratch / "batch.log").read_text())
    return cpu_s, elapsed_s


def batch_command(
    python: Path, endpoint: Endpoint, transport: str, batch_id: str, sheet: Path, results: Path
) -> list[object]:
    """Return the command of a batch over a service that runs already."""
    return [
        *(python, "-m", "samcourier.cli", "batch", sheet, "--batch", batch_id),
        *("--batch-size", BATCH_SIZE, "--out", results / f"{batch_id}.json"),
        *("--target", "existing", "--server-url", endpoint.server_url),
        *("--workspace", endpoint.workspace, "--service-id", endpoint.service_id),
        *("--transport", transport, "--dataset-dir", results),
    ]


def main(options: argparse.Namespace) -> None:
    pythons = {"": Path(sys.executable)}
    if options.compare_with is not None:
        pythons["compared_"] = options.compare_with
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        image, mask = scratch / "image.tif", scratch / "mask.tif"
        chance = np.random.default_rng(7)
        tifffile.imwrite(image, chance.integers(0, 4096, (EDGE_PX, EDGE_PX), np.uint16))
        tifffile.imwrite(mask, np.ones((EDGE_PX, EDGE_PX), np.uint16))
        sheet = scratch / "sheet.tsv"
        rows = [f"i{number}\t{image}" for number in range(2 * BATCH_SIZE)]
        sheet.write_text("\n".join(["image\tpath", *rows, ""]))
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
        busy_log = scratch / "busy.log"
        measured: dict[str, list[float]] = defaultdict(list)
        with running_canned_service(mask, scratch, "--busy-log", busy_log) as endpoint:
            with_token = environment | {"HYPHA_TOKEN": endpoint.token or ""}
            for number in range(options.rounds + 1):
                found: dict[str, float] = {}
                for prefix, python in pythons.items():
                    help_command = [python, "-m", "samcourier.cli", "--help"]
                    found[f"{prefix}help"] = finished_cpu_s(help_command, environment)
                    for case, transport, batch_id in CASES:
                        results = scratch / f"results-{number}-{prefix}{transport}"
                        command = batch_command(
                            python, endpoint, transport, batch_id, sheet, results
                        )
                        cpu_s, elapsed_s = batch_start(command, with_token, busy_log, scratch)
                        found[f"{prefix}batch_{case}"] = cpu_s
                        found[f"{prefix}batch_{case}_elapsed"] = elapsed_s
                click = [sys.executable, "-c", "import click"]
                found["import_click"] = finished_cpu_s(click, environment)
                if number:
                    for each, seconds in found.items():
                        measured[each].append(seconds)
    publish(measured)


def publish(measured: dict[str, list[float]]) -> None:
    """Print and write the medians, and the ratios to the compared checkout and to click."""
    medians = {case: statistics.median(seconds) for case, seconds in measured.items()}
    figures = Figures("start")
    for case, seconds in medians.items():
        figures.add(case, seconds, "s")
    figures.add("help_per_import_click", medians["help"] / medians["import_click"], "x")
    for case, seconds in medians.items():
        if f"compared_{case}" in medians:
            figures.add(f"{case}_per_compared", seconds / medians[f"compared_{case}"], "x")
    figures.details = dict(measured)
    figures.publish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare-with", type=Path, metavar="PYTHON")
    main(parser.parse_args())
