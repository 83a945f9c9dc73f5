from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.failure import Failure
from samcourier.masks.omezarr import write_mask
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import (
    NOTE_REUSED,
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    OutputRecord,
    write_image_log,
)
from samcourier.results.layout import log_path, manifest_path, mask_path, output_path, output_sha256
from samcourier.results.manifest import Manifest, manifest_entry, write_manifest

from .installed import Install, installing

SERVICE = {
    "engine": "watershed",
    "model": "none",
    "model_sha256": None,
    "segmentation_version": 1,
}
OVER_WEBSOCKET = Attempt(
    transport="websocket",
    reason="predicted 0.9 s, the least",
    started_at="2026-03-01T10:00:01.000+00:00",
    outcome="ok",
    error=None,
    seconds=CallSeconds(total=1.0, send=0.2, queue=0.25, service=0.5, receive=0.05),
    predicted_s=0.9,
    bytes=CallBytes(up=2_000_000, down=500_000),
)
WEBRTC_FAILED = Attempt(
    transport="webrtc",
    reason="predicted 0.4 s, the least",
    started_at="2026-03-01T10:00:00.500+00:00",
    outcome="failed",
    error=Failure("transport", "TransportFailed", "channel closed"),
    seconds=CallSeconds(total=0.3),
    bytes=CallBytes(up=2_000_000, down=0),
)

#: Objects by image; None for one that could not be read.
COUNTS = {"near": 2, "far": 3, "kept": 5, "torn": None, "empty": 0}


def squares(count: int) -> np.ndarray:
    """Return ``count`` squares of 4 x 4 pixels, labelled from 1, on (32, 32) uint32."""
    mask = np.zeros((32, 32), np.uint32)
    for label in range(count):
        y, x = divmod(label, 4)
        mask[y * 8 : y * 8 + 4, x * 8 : x * 8 + 4] = label + 1
    return mask


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Install distributions for a test: see :func:`.installed.write_distribution`."""
    with installing(tmp_path / "site-packages") as install:
        yield install


@pytest.fixture
def finished_run(finished_results: Path, tmp_path: Path) -> Path:
    """A sample sheet images.tsv and what a run of it left in results/demo, batches of two.

    near: one call. far: a transport failed first. kept: mask reused. torn: unreadable image.
    empty: no object. near's truth agrees fully, far's in two of its three objects.
    """
    shutil.copytree(finished_results, tmp_path / "results" / "demo")
    (tmp_path / "truth").mkdir()
    truths = {name: tmp_path / "truth" / f"{name}.tif" for name in ("near", "far")}
    for path in truths.values():
        tifffile.imwrite(path, squares(2))
    sheet = [f"{image}\tdata/{image}.tif\t{truths.get(image, '')}\n" for image in COUNTS]
    (tmp_path / "images.tsv").write_text("image\tpath\ttruth\n" + "".join(sheet))
    return tmp_path


@pytest.fixture(scope="session")
def finished_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that :func:`finished_run` copies."""
    dataset_dir = tmp_path_factory.mktemp("finished") / "demo"
    entries = {}
    for second, (image, count) in enumerate(COUNTS.items()):
        log = _failed(image, second) if count is None else _done(dataset_dir, image, count, second)
        write_image_log(log_path(dataset_dir, image), log)
        entries[image] = manifest_entry(dataset_dir, log)
    for number, images in enumerate((["near", "far"], ["kept", "torn"], ["empty"]), start=1):
        batch = Manifest(f"{number:04d}", {image: entries[image] for image in images})
        write_manifest(manifest_path(dataset_dir, batch.batch), batch)
    with ConnectionJournal(dataset_dir / "logs" / "connection" / "0001.jsonl") as journal:
        journal.record("open", transport="webrtc", seconds=0.2)
        journal.record("left", transport="webrtc", kind="transport", error="channel closed")
        journal.record(
            "switch", from_transport="webrtc", to="websocket", reason="the only one left"
        )
    return dataset_dir


def _tabulate(dataset_dir: Path, image: str, count: int) -> OutputRecord:
    path = output_path(dataset_dir, image, "objects_csv")
    path.parent.mkdir(exist_ok=True)
    path.write_text("id\n" + "".join(f"{number}\n" for number in range(1, count + 1)))
    return OutputRecord("0" * 16, 1, path.stat().st_size, output_sha256(path))


def _done(dataset_dir: Path, image: str, count: int, second: int) -> ImageLog:
    attempts = {"far": (WEBRTC_FAILED, OVER_WEBSOCKET), "kept": ()}.get(image, (OVER_WEBSOCKET,))
    key = hashlib.sha256(image.encode()).hexdigest()
    write_mask(mask_path(dataset_dir, image), squares(count), "YX", provenance={"key": key})
    outputs = {}
    if image == "near":
        outputs["objects_csv"] = _tabulate(dataset_dir, image, count)
    return ImageLog(
        image=image,
        path=f"data/{image}.tif",
        status="done",
        finished_at=f"2026-03-01T10:00:{second + 2:02d}.000+00:00",
        seconds=ImageSeconds(total=2.0, read=0.1, pack=0.05, unpack=0.01, write=0.2),
        key=key,
        pixels_sha256="0" * 64,
        note=NOTE_REUSED if image == "kept" else None,
        object_count=count,
        shape=(32, 32),
        dtype="uint16",
        axes="YX",
        mask=f"results/demo/masks/{image}.ome.zarr",
        outputs=outputs,
        attempts=attempts,
        service=SERVICE,
    )


def _failed(image: str, second: int) -> ImageLog:
    return ImageLog(
        image=image,
        path=f"data/{image}.tif",
        status="failed",
        finished_at=f"2026-03-01T10:00:{second + 2:02d}.000+00:00",
        seconds=ImageSeconds(total=0.1),
        failure=Failure("image", "ImageUnfit", f"data/{image}.tif: not a TIFF"),
    )
