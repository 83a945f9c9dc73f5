"""The report of 24 and of 10 000 images: seconds to write it, its size, seconds to first paint.

The runs are made up, but written by the package's own writers: masks, logs, manifests, connection
journals and previews. First paint is headless Chromium's own figure, the median of five fresh
browsers, from the start of loading the file. The pages and a picture of each lie in build/bench.
"""

from __future__ import annotations

import hashlib
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from figures import Figures
from msgspec.structs import replace

from samcourier.failure import Failure
from samcourier.masks.omezarr import write_mask
from samcourier.outputs.previews import Preview, png
from samcourier.report import build_report, write_report
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import (
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    OutputRecord,
    write_image_log,
)
from samcourier.results.layout import log_path, manifest_path, mask_path, output_path
from samcourier.results.manifest import Manifest, manifest_entry, write_manifest
from samcourier.samples.sheet import Batch, ImageRow, make_batches

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/browser"))
from chromium import CHROMIUM, open_browser

COUNTS = (24, 10_000)
BATCH_SIZE = 32
PAINTS = 5
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
SECONDS_AN_IMAGE = 0.4
EDGE_PX = 256
#: The images of the run are these over and over: only their names and logs differ.
SCENES = 8
SERVICE = {"engine": "micro-sam", "model": "vit_b_lm", "segmentation_version": 1}
OUT = Path("build/bench")


def scene(number: int) -> tuple[np.ndarray, Preview, int]:
    """Return a mask of discs, its preview and the number of its objects."""
    chance = np.random.default_rng(number)
    y, x = np.mgrid[:EDGE_PX, :EDGE_PX]
    mask = np.zeros((EDGE_PX, EDGE_PX), np.uint32)
    light = np.zeros((EDGE_PX, EDGE_PX))
    for label in range(1, 31):
        centre_y, centre_x = chance.uniform(10, EDGE_PX - 10, 2)
        distance = np.hypot(y - centre_y, x - centre_x)
        radius = chance.uniform(8, 16)
        mask[distance < radius] = label
        light = np.maximum(light, np.clip(1.2 - distance / radius, 0, 1) * chance.uniform(0.5, 1))
    grey = ((light + chance.normal(0.06, 0.03, light.shape)).clip(0, 1) * 255).astype(np.uint8)
    edges = np.zeros(mask.shape, bool)
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edges[1:] |= mask[1:] != mask[:-1]
    preview = Preview(np.stack([grey] * 3, axis=-1), edges & (mask > 0))
    return mask, preview, len(np.unique(mask)) - 1


def log_of(row: ImageRow, number: int, chance: random.Random, object_count: int) -> ImageLog:
    """Return the log of an image: one of 50 fails, one of 20 is carried by a second transport."""
    finished = START + timedelta(seconds=(number + 1) * SECONDS_AN_IMAGE)
    way = "webrtc" if number % 700 > 100 else "websocket"
    travel_s, service_s = chance.lognormvariate(-2.2, 0.4), chance.lognormvariate(-1.2, 0.3)
    call = Attempt(
        transport=way,
        reason=f"predicted {travel_s:.3f} s, http {travel_s * 2.1:.3f} s",
        started_at=(finished - timedelta(seconds=service_s + travel_s)).isoformat(),
        outcome="ok",
        error=None,
        seconds=CallSeconds(
            total=travel_s + service_s + 0.05,
            send=travel_s * 0.9,
            queue=0.05,
            service=service_s,
            receive=travel_s * 0.1,
        ),
        bytes=CallBytes(up=1_400_000 + number % 9000, down=60_000),
        predicted_s=travel_s * chance.lognormvariate(0, 0.25),
        travel_alone_s=travel_s,
    )
    attempts: tuple[Attempt, ...] = (call,)
    if number % 20 == 7:
        lost = Failure("transport", "TransportFailed", "channel closed")
        attempts = (replace(call, outcome="failed", error=lost, transport="http"), call)
    log = ImageLog(
        image=row.image,
        path=str(row.path),
        status="done",
        finished_at=finished.isoformat(),
        seconds=ImageSeconds(
            total=travel_s + service_s + 0.15, read=0.03, pack=0.02, unpack=0.01, write=0.04
        ),
        key=hashlib.sha256(row.image.encode()).hexdigest(),
        pixels_sha256="0" * 64,
        object_count=object_count,
        shape=(1024, 1024),
        dtype="uint16",
        axes="YX",
        mask=f"masks/{row.image}.ome.zarr",
        attempts=attempts,
        outputs={"preview": OutputRecord("0" * 16, 1, 1, "0" * 64)},
        service=SERVICE,
    )
    if number % 50 != 13:
        return log
    failure = Failure("image", "ImageUnfit", f"{row.path}: 12 values are NaN, expected finite ones")
    return replace(
        log, status="failed", failure=failure, mask=None, object_count=None, outputs={}, attempts=()
    )


def make_run(root: Path, count: int) -> tuple[list[ImageRow], list[Batch], Path]:
    """Write what a run of so many images leaves."""
    dataset_dir = root / f"plate-{count}"
    rows = [ImageRow(f"well_{n // 9:04d}_site_{n % 9}", root / f"{n}.tif") for n in range(count)]
    batches = make_batches(rows, BATCH_SIZE)
    scenes = [scene(number) for number in range(SCENES)]
    pictures = [png(preview) for _, preview, _ in scenes]
    chance = random.Random(0)
    (dataset_dir / "previews").mkdir(parents=True)
    entries = {}
    for number, row in enumerate(rows):
        mask, _, object_count = scenes[number % SCENES]
        log = log_of(row, number, chance, object_count)
        write_image_log(log_path(dataset_dir, row.image), log)
        if log.failure is None:
            path = mask_path(dataset_dir, row.image)
            write_mask(path, mask, "YX", provenance={"key": log.key})
            output_path(dataset_dir, row.image, "preview").write_bytes(pictures[number % SCENES])
        entries[row.image] = manifest_entry(dataset_dir, log)
    for number, batch in enumerate(batches):
        images = {row.image: entries[row.image] for row in batch.rows}
        write_manifest(manifest_path(dataset_dir, batch.batch_id), Manifest(batch.batch_id, images))
        journal_path = dataset_dir / "logs/connection" / f"{batch.batch_id}.jsonl"
        with ConnectionJournal(journal_path) as journal:
            at = START + timedelta(seconds=number * BATCH_SIZE * SECONDS_AN_IMAGE)
            journal.record("open", transport="websocket", at=at.isoformat(), seconds=0.1)
            if number % 22 == 3:
                journal.record(
                    "switch",
                    at=at.isoformat(),
                    from_transport="websocket",
                    to_transport="webrtc",
                    reason="predicted 0.110 s, websocket 0.210 s",
                )
    return rows, batches, dataset_dir


def first_paint_s(page: Path, picture: Path | None = None) -> tuple[float, float]:
    """Return the seconds to the first paint, and until the table is there, in a fresh browser."""
    with open_browser() as browser:
        browser.resize(1400, 1000)
        browser.open(page)
        browser.settle()
        paint = browser.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        done = browser.run("performance.getEntriesByType('navigation')[0].domComplete")
        if browser.problems:
            raise SystemExit(f"{page}: {browser.problems}")
        if picture is not None:
            browser.screenshot(picture)
        return paint / 1000, done / 1000


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("chromium is not installed (Debian: apt-get install chromium)")
    OUT.mkdir(parents=True, exist_ok=True)
    figures = Figures("report")
    for count in COUNTS:
        root = Path(tempfile.mkdtemp(dir="build"))
        try:
            rows, batches, dataset_dir = make_run(root, count)
            start_s = time.perf_counter()
            report = build_report(rows, batches, dataset_dir)
            judged_s = time.perf_counter()
            page = dataset_dir / "report.html"
            write_report(report, page, dataset_dir / "report.tsv")
            written_s = time.perf_counter()
            paints = [first_paint_s(page) for _ in range(PAINTS - 1)]
            paints.append(first_paint_s(page, OUT / f"report-{count}.png"))
            shutil.copy(page, OUT / f"report-{count}.html")
            page_bytes = page.stat().st_size
        finally:
            shutil.rmtree(root)
        figures.add(f"judge_{count}", judged_s - start_s, "s")
        figures.add(f"write_{count}", written_s - judged_s, "s")
        figures.add(f"size_{count}", page_bytes / 1e6, "MB")
        figures.add(f"first_paint_{count}", statistics.median(each for each, _ in paints), "s")
        figures.add(f"complete_{count}", statistics.median(each for _, each in paints), "s")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures.add("peak_memory", peak_kib / 1024, "MiB")
    figures.publish()


if __name__ == "__main__":
    main()
