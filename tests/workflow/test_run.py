"""The real Snakefile against the real local service: what a person does to a run, and its end.

Nothing here is scripted: Snakemake, Hypha's server, the service and its engine are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import yaml

from samcourier.deploy.local.record import (
    RECORD_NAME,
    LocalRecord,
    read_local_record,
    write_local_record,
)
from samcourier.masks.integrity import read_provenance
from samcourier.masks.omezarr import read_mask

pytestmark = [pytest.mark.live, pytest.mark.slow]

REPO = Path(__file__).parents[2]
IMAGES = ("near", "far", "left", "right", "over", "under")
RUN_TIMEOUT_S = 240
GONE_TIMEOUT_S = 180


def blobs(seed: int) -> np.ndarray:
    """Return a (160, 160) uint16 image with a handful of bright discs, no two images alike."""
    rng = np.random.default_rng(seed)
    image = rng.normal(200, 5, (160, 160))
    y, x = np.mgrid[:160, :160]
    for row in (35, 80, 125):
        for column in (35, 80, 125):
            radius_px = rng.uniform(10, 15)
            image[(y - row) ** 2 + (x - column) ** 2 < radius_px**2] += rng.uniform(800, 2000)
    return image.astype(np.uint16)


class Folder:
    """A user's folder: six images in batches of two, a config, results, no workflow."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = directory / "results" / "cells"
        (directory / "config").mkdir(parents=True)
        for seed, image in enumerate(IMAGES):
            self.write_image(image, blobs(seed))
        self.write_sheet(*IMAGES)
        self.configure()

    def write_image(self, image: str, pixels: np.ndarray) -> None:
        path = self.directory / f"{image}.tif"
        tifffile.imwrite(path, pixels)

    def write_sheet(self, *images: str) -> None:
        rows = [f"{image}\t{image}.tif" for image in images]
        (self.directory / "config/images.tsv").write_text("\n".join(["image\tpath", *rows]) + "\n")

    def configure(self, **changes: Any) -> None:
        config = {"dataset": "cells", "sheet": "config/images.tsv", "batch_size": 2, **changes}
        (self.directory / "config/config.yaml").write_text(yaml.safe_dump(config))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start snakemake; its jobs find this environment's samcourier by themselves."""
        snakemake = Path(sys.executable).with_name("snakemake")
        return subprocess.Popen(
            [snakemake, "-s", REPO / "Snakefile", "--cores", "2", *arguments],
            cwd=self.directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run snakemake to its end and return what it said."""
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        assert process.returncode == status, said
        return said

    def log(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.results / "logs" / f"{image}.json").read_text())
        return found

    def mask(self, image: str) -> Path:
        return self.results / "masks" / f"{image}.ome.zarr"

    def written(self) -> dict[str, int]:
        """Return when each mask was written: a mask that is kept keeps its time."""
        return {path.name.partition(".")[0]: path.stat().st_mtime_ns for path in self.masks()}

    def masks(self) -> list[Path]:
        return sorted((self.results / "masks").glob("*.ome.zarr"))

    def pixels(self) -> dict[str, bytes]:
        return {path.name: read_mask(path).tobytes() for path in self.masks()}

    def chunk(self, image: str) -> Path:
        """Return the largest chunk of level 0."""
        files = [path for path in (self.mask(image) / "0").rglob("*") if path.name.isdigit()]
        return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)

    def service_processes(self) -> list[str]:
        """Return the command lines of this folder's service and Hypha server that are alive."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                ours = str(self.directory) in line or process.cwd().startswith(str(self.directory))
                if "samcourier.deploy" in line and ours:
                    found.append(line)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return found

    def wait_until_service_is_gone(self) -> None:
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while self.service_processes():
            assert time.monotonic() < deadline, self.service_processes()
            time.sleep(0.1)

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A run that went well, to be copied by each test."""
    folder = Folder(tmp_path_factory.mktemp("run") / "finished")
    folder.run()
    folder.wait_until_service_is_gone()
    return folder


@pytest.fixture
def folder(finished: Folder, tmp_path: Path) -> Iterator[Folder]:
    """A finished run of one's own to damage; its service is gone when the test ends."""
    shutil.copytree(finished.directory, tmp_path / "run", symlinks=True)
    copy = Folder.__new__(Folder)
    copy.directory = tmp_path / "run"
    copy.results = copy.directory / "results" / "cells"
    yield copy
    copy.wait_until_service_is_gone()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Folder]:
    """A folder in which nothing was run yet."""
    made = Folder(tmp_path / "fresh")
    yield made
    made.wait_until_service_is_gone()


def test_a_run_leaves_masks_logs_and_a_report(finished: Folder) -> None:
    assert {path.name for path in finished.masks()} == {f"{image}.ome.zarr" for image in IMAGES}
    for image in IMAGES:
        log = finished.log(image)
        assert log["status"] == "done"
        assert log["object_count"] == int(read_mask(finished.mask(image)).max()) == 9
        assert log["attempts"][-1]["outcome"] == "ok"
        provenance = read_provenance(finished.mask(image))
        assert provenance is not None
        assert provenance["key"] == log["key"]
    assert (finished.results / "report.html").stat().st_size > 0
    assert (finished.results / "complete.json").exists()
    verdict = json.loads((finished.results / "service.json").read_text())
    assert {name: each["works"] for name, each in verdict["transports"].items()} == {
        "websocket": True,
        "webrtc": True,
        "http": True,
    }


def test_running_again_does_nothing(folder: Folder) -> None:
    before = folder.written()
    said = folder.run()
    assert "Nothing to be done" in said, said
    assert folder.written() == before
    assert folder.service_processes() == []


def test_damaged_masks_are_computed_again_alone(folder: Folder) -> None:
    before, pixels = folder.written(), folder.pixels()
    shutil.rmtree(folder.mask("near"))
    os.truncate(folder.chunk("left"), 10)
    folder.chunk("right").unlink()
    (folder.mask("under") / ".zattrs").unlink()
    folder.run()
    after = folder.written()
    damaged = {"near", "left", "right", "under"}
    assert {image for image in IMAGES if after[image] != before[image]} == damaged
    assert folder.pixels() == pixels
    said = folder.run()
    assert "Nothing to be done" in said, said


def test_changed_pixels_touch_their_own_image_alone(folder: Folder) -> None:
    before = folder.written()
    folder.write_image("far", blobs(77))
    folder.run()
    after = folder.written()
    assert {image for image in IMAGES if after[image] != before[image]} == {"far"}


def test_changed_parameters_touch_every_image(folder: Folder) -> None:
    before = folder.written()
    folder.configure(parameters={"min_area_px": 500})
    folder.run()
    after = folder.written()
    assert {image for image in IMAGES if after[image] != before[image]} == set(IMAGES)
    assert folder.log("near")["parameters"] == {"min_area_px": 500}


def test_a_slip_in_the_parameters_ends_the_run_before_a_batch_starts(fresh: Folder) -> None:
    fresh.configure(parameters={"min_area": 500})
    said = fresh.run(status=1)
    assert (
        "config.parameters: parameter 'min_area' with value 500 is unknown,"
        " did you mean 'min_area_px'? expected one of diameter_px"
    ) in said
    assert not (fresh.results / "batches").exists() and not (fresh.results / "logs").exists()


def test_a_bad_image_is_named_and_the_others_go_on(fresh: Folder) -> None:
    (fresh.directory / "far.tif").write_bytes(b"II*\0 this is no TIFF")
    (fresh.directory / "left.tif").unlink()
    said = fresh.run(status=1)
    assert "2 images have no mask: far, left" in said
    good = {f"{image}.ome.zarr" for image in IMAGES if image not in ("far", "left")}
    assert {path.name for path in fresh.masks()} == good
    assert fresh.log("far")["failure"]["kind"] == "image"
    assert "left.tif: no such file" in fresh.log("left")["failure"]["message"]
    assert "far" in (fresh.results / "report.html").read_text()
    before = fresh.written()
    fresh.write_image("far", blobs(1))
    fresh.write_image("left", blobs(2))
    fresh.run()
    after = fresh.written()
    assert set(after) == set(IMAGES)
    assert all(after[image] == before[image] for image in before)


def test_one_image_can_be_asked_for(fresh: Folder) -> None:
    fresh.run("--config", "images=far")
    assert [path.name for path in fresh.masks()] == ["far.ome.zarr"]
    before = fresh.written()
    fresh.run()
    assert set(fresh.written()) == set(IMAGES)
    assert fresh.written()["far"] == before["far"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_run_leaves_no_service_and_is_taken_up_again(
    fresh: Folder, finished: Folder, number: int
) -> None:
    with fresh.start() as process:
        fresh.wait_for(fresh.results / "service" / RECORD_NAME)
        os.kill(process.pid, number)
        process.communicate(timeout=RUN_TIMEOUT_S)
    fresh.wait_until_service_is_gone()
    fresh.run()
    assert fresh.pixels() == finished.pixels()


def test_a_killed_service_is_replaced(fresh: Folder, finished: Folder) -> None:
    with fresh.start() as process:
        fresh.wait_for(fresh.results / "service" / RECORD_NAME)
        record = read_local_record(fresh.results / "service")
        assert record is not None
        os.kill(int(record.process.partition("-")[0]), signal.SIGKILL)
        process.communicate(timeout=RUN_TIMEOUT_S)
    fresh.wait_until_service_is_gone()
    fresh.run()
    assert fresh.pixels() == finished.pixels()


def test_a_stale_record_fools_nobody(folder: Folder) -> None:
    # The pid is alive, but it is another process than the one that wrote the record.
    stale = LocalRecord(f"{os.getpid()}-1", "http://127.0.0.1:9", "ws", "ws/c:s", "ws/c:r", "x")
    write_local_record(folder.results / "service", stale)
    shutil.rmtree(folder.mask("near"))
    folder.run()
    assert folder.log("near")["status"] == "done"


def test_the_token_of_the_local_service_is_private_and_not_repeated(fresh: Folder) -> None:
    token_path = fresh.results / "service" / "token"
    with fresh.start() as process:
        fresh.wait_for(token_path)
        assert token_path.stat().st_mode & 0o777 == 0o600
        token = token_path.read_text()
        said, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    fresh.wait_until_service_is_gone()
    assert not token_path.exists()
    assert token not in said
    for path in fresh.directory.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("service", "complaint"),
    [
        (
            {"target": "existing", "server_url": "http://127.0.0.1:9", "workspace": "w"}
            | {"service_id": "s"},
            "no transport reaches the service",
        ),
        ({"target": "existing", "service_id": "s"}, "service.server_url"),
        ({"target": "local", "engine": "watersheds"}, "watersheds"),
    ],
)
def test_a_wrong_service_is_one_clear_line(
    fresh: Folder, service: dict[str, Any], complaint: str
) -> None:
    fresh.configure(service=service)
    said = fresh.run(status=1)
    assert complaint in said
    assert "Traceback" not in said
