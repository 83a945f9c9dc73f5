"""Is a service that takes its time kept busy? One run of `samcourier segment`, 200 large images.

The service takes 0.5 s an image and works on one at a time; what is between two images is lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from canned_service import running_canned_service
from figures import Figures
from naive import make_images

from samcourier.transports import Endpoint

IMAGE_COUNT = 200
WORK_S = 0.5


def write_sheet(paths: list[Path], sheet: Path) -> None:
    """Write rows for all images; the files repeat."""
    rows = [f"i{number}\t{paths[number % len(paths)]}" for number in range(IMAGE_COUNT)]
    sheet.write_text("\n".join(["image\tpath", *rows, ""]))


def segment(endpoint: Endpoint, sheet: Path, scratch: Path, *options: object) -> float:
    """Return the seconds of the whole command with further options, its start included."""
    command = [sys.executable, "-m", "samcourier.cli", "segment", sheet]
    command += ["--target", "existing", "--server-url", endpoint.server_url]
    command += ["--workspace", endpoint.workspace, "--service-id", endpoint.service_id]
    command += ["--batch-size", IMAGE_COUNT, "--dataset-dir", scratch / "results", *options]
    start_s = time.perf_counter()
    environment = os.environ | {"HYPHA_TOKEN": endpoint.token or ""}
    with (scratch / "segment.log").open("w") as log:
        done = subprocess.run(
            [str(part) for part in command], env=environment, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        sys.exit((scratch / "segment.log").read_text())
    return time.perf_counter() - start_s


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        paths, mask = make_images(scratch)
        write_sheet(paths, scratch / "sheet.tsv")
        busy_log = scratch / "busy.log"
        options = ("--work-s", WORK_S, "--busy-log", busy_log)
        with running_canned_service(mask, scratch, *options) as endpoint:
            whole_s = segment(endpoint, scratch / "sheet.tsv", scratch)
        lines = [line.split() for line in busy_log.read_text().splitlines()]
        spans = sorted((float(began), float(ended)) for began, ended in lines)
    work_s = sum(ended - began for began, ended in spans)
    figures = Figures("busy")
    figures.add("images", len(spans), "images")
    figures.add("service_busy", 100 * work_s / (spans[-1][1] - spans[0][0]), "%")
    figures.add("run", whole_s, "s")
    figures.add("pure_service_time", work_s, "s")
    figures.add("run_beyond_service_time", whole_s - work_s, "s")
    figures.publish()


if __name__ == "__main__":
    main()
