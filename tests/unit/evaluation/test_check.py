from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from samcourier.evaluation.check import check_results
from samcourier.failure import Failure
from samcourier.files.strict_json import write_json
from samcourier.masks.omezarr import write_mask
from samcourier.report import build_report, write_report
from samcourier.results.image_log import (
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    read_image_log,
    write_image_log,
)
from samcourier.results.manifest import read_manifest, write_manifest
from samcourier.results.run_record import start_record
from samcourier.samples.sheet import make_batches, read_sheet

Damage = Callable[[Path], None]


@pytest.fixture
def dataset_dir(finished_run: Path) -> Path:
    return finished_run / "results" / "demo"


def log(image: str, **changes: Any) -> Damage:
    """Return a function that changes fields of the log of ``image``."""

    def damage(dataset_dir: Path) -> None:
        path = dataset_dir / "logs" / f"{image}.json"
        write_image_log(path, replace(read_log(path), **changes))

    return damage


def attempts(image: str, change: Callable[[tuple[Attempt, ...]], tuple[Attempt, ...]]) -> Damage:
    def damage(dataset_dir: Path) -> None:
        before = read_log(dataset_dir / "logs" / f"{image}.json")
        log(image, attempts=change(before.attempts))(dataset_dir)

    return damage


def last_attempt(image: str, **changes: Any) -> Damage:
    return attempts(image, lambda made: (*made[:-1], replace(made[-1], **changes)))


def entry(image: str, **changes: Any) -> Damage:
    """Return a function that changes fields of the manifest's entry of ``image``."""

    def damage(dataset_dir: Path) -> None:
        for path in (dataset_dir / "batches").iterdir():
            manifest = read_manifest(path)
            assert manifest is not None
            if image in manifest.images:
                images = manifest.images | {image: replace(manifest.images[image], **changes)}
                write_manifest(path, replace(manifest, images=images))

    return damage


def read_log(path: Path) -> ImageLog:
    found = read_image_log(path)
    assert found is not None
    return found


def remove(where: str) -> Damage:
    def damage(dataset_dir: Path) -> None:
        path = dataset_dir / where
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(where: str, content: bytes = b"") -> Damage:
    def damage(dataset_dir: Path) -> None:
        (dataset_dir / where).parent.mkdir(parents=True, exist_ok=True)
        (dataset_dir / where).write_bytes(content)

    return damage


def flip_last_byte(where: str) -> Damage:
    def damage(dataset_dir: Path) -> None:
        content = (dataset_dir / where).read_bytes()
        (dataset_dir / where).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return damage


def copy(source: str, target: str) -> Damage:
    def damage(dataset_dir: Path) -> None:
        path = dataset_dir / source
        (shutil.copytree if path.is_dir() else shutil.copy)(path, dataset_dir / target)

    return damage


def other_mask(image: str) -> Damage:
    def damage(dataset_dir: Path) -> None:
        path = dataset_dir / "masks" / f"{image}.ome.zarr"
        write_mask(path, np.ones((32, 32), np.uint32), "YX", provenance={"key": "other"})

    return damage


def test_a_finished_folder_has_no_findings(dataset_dir: Path) -> None:
    assert check_results(dataset_dir) == []


def test_a_complete_folder_with_its_report_has_no_findings(finished_run: Path) -> None:
    rows = read_sheet(finished_run / "images.tsv")
    out = finished_run / "results" / "demo"
    report = build_report(rows, make_batches(rows, 2), out, only={"near", "far"})
    write_report(report, out / "report.html", out / "report.tsv", out / "complete.json")
    assert (out / "complete.json").exists()
    assert check_results(out) == []


@pytest.mark.parametrize(
    ("damage", "where", "problem"),
    [
        (remove("masks/near.ome.zarr"), "logs/near.json", "there is no mask"),
        (remove("masks/near.ome.zarr/0/0/0"), "masks/near.ome.zarr", "damaged"),
        (flip_last_byte("masks/near.ome.zarr/0/0/0"), "masks/near.ome.zarr", "damaged"),
        (write("masks/near.ome.zarr/.zattrs", b"{"), "masks/near.ome.zarr", "damaged"),
        (other_mask("near"), "masks/near.ome.zarr", "its key is other"),
        (write("masks/near.ome.zarr.zip"), "masks/near.ome.zarr.zip", "a second mask"),
        (remove("objects/near.csv"), "objects/near.csv", "near: its log lists it, but it is"),
        (
            flip_last_byte("objects/near.csv"),
            "objects/near.csv",
            "near: changed since it was written",
        ),
        (write("objects/stray.csv"), "objects/stray.csv", "no log lists it"),
        (write("previews/near.png"), "previews/near.png", "no log lists it"),
        (write("objects/.near.csv.part"), "objects/.near.csv.part", "temporary file of"),
        (entry("near", outputs={}), "batches/0001.json", "near: outputs {}, but its log says"),
        (log("near", outputs={}), "objects/near.csv", "no log lists it"),
        (write("masks/torn.ome.zarr.zip"), "masks/torn.ome.zarr.zip", "damaged"),
        (log("near", key="changed"), "masks/near.ome.zarr", "its log has changed"),
        (remove("logs/near.json"), "masks/near.ome.zarr", "no log lists it"),
        (other_mask("stray"), "masks/stray.ome.zarr", "no log lists it"),
        (other_mask("torn"), "masks/torn.ome.zarr", "its log says failed"),
        (write("logs/near.json", b'{"schema": '), "logs/near.json", "damaged"),
        (write("logs/near.json"), "logs/near.json", "damaged"),
        (copy("logs/torn.json", "logs/also.json"), "logs/also.json", "belongs to image 'torn'"),
        (copy("logs/torn.json", "logs/also.json"), "logs/also.json", "no batch's manifest"),
        (log("torn", failure=None), "logs/torn.json", "gives no reason"),
        (
            log("near", failure=Failure("image", "ImageUnfit", "no")),
            "logs/near.json",
            "done, but with the failure 'no'",
        ),
        (
            write("masks/.near.ome.zarr.0a1b2c3d.part/0/0"),
            "masks/.near.ome.zarr.0a",
            "temporary file of",
        ),
        (
            write("masks/.near.ome.zarr.0a1b2c3d.old/0/0"),
            "masks/.near.ome.zarr.0a",
            "temporary file of",
        ),
        (write("logs/.near.json.1f.part"), "logs/.near.json.1f.part", "temporary file of"),
        (write("service/.local.json.7.part"), "service/.local.json.7.part", "temporary file of"),
        (write("batches/0001.json", b"[]"), "batches/0001.json", "damaged"),
        (
            copy("batches/0001.json", "batches/0009.json"),
            "batches/0009.json",
            "belongs to batch '0001'",
        ),
        (copy("batches/0001.json", "batches/0009.json"), "batches/0009.json", "also in batch 0001"),
        (remove("batches/0001.json"), "logs/near.json", "no batch's manifest"),
        (remove("logs/torn.json"), "batches/0002.json", "torn: failed, but it has no log"),
        (
            entry("near", status="failed"),
            "batches/0001.json",
            "near: failed, but its log says done",
        ),
        (entry("near", key="k"), "batches/0001.json", "near: key k"),
        (entry("near", object_count=3), "batches/0001.json", "near: object_count 3"),
        (entry("near", mask_files=1), "batches/0001.json", "near: mask of 1 files"),
        (entry("near", mask_bytes=1), "batches/0001.json", "and 1 bytes"),
        (entry("torn", failure_kind="service"), "batches/0002.json", "torn: failure_kind service"),
        (attempts("near", lambda made: ()), "logs/near.json", "done with 0 successful"),
        (attempts("near", lambda made: made * 2), "logs/near.json", "done with 2 successful"),
        (attempts("far", lambda made: made[::-1]), "logs/far.json", "follows a successful one"),
        (attempts("far", lambda made: made[::-1]), "logs/far.json", "not sorted by time"),
        (log("kept", note=None), "logs/kept.json", "done with 0 successful attempts"),
        (last_attempt("near", outcome="failed"), "logs/near.json", "failed, with the error None"),
        (
            last_attempt("near", error=Failure("service", "ServiceFailed", "odd")),
            "logs/near.json",
            "attempt 1: ok, with the error 'odd'",
        ),
        (last_attempt("near", bytes=CallBytes(-1, 0)), "logs/near.json", "-1 bytes up"),
        (last_attempt("near", bytes=CallBytes(0, -2)), "logs/near.json", "-2 down"),
        (
            last_attempt("far", seconds=CallSeconds(total=0.5, send=0.3, service=0.3)),
            "logs/far.json",
            "attempt 2: its parts take 0.600 s, but the total is 0.500 s",
        ),
        (last_attempt("near", seconds=CallSeconds(1.0, send=-0.1)), "logs/near.json", "-0.1 s"),
        (last_attempt("near", seconds=CallSeconds(9.0)), "logs/near.json", "its parts take 9.3"),
        (log("near", seconds=ImageSeconds(1.0, read=0.9)), "logs/near.json", "its parts take 1.9"),
        (log("near", seconds=ImageSeconds(2.0, read=-1.0)), "logs/near.json", "-1 s"),
        (log("torn", seconds=ImageSeconds(-3.0)), "logs/torn.json", "-3 s"),
        (write("complete.json", b"{}"), "complete.json", "damaged"),
        (write("run.json", b'{"schema": '), "run.json", "damaged: not a complete record"),
        (write("run.json", b'{"schema": "samcourier/run/2"}'), "run.json", "damaged"),
        (write("complete.json", b'{"keys": {"torn": "k"}}'), "complete.json", "torn: listed"),
        (write("complete.json", b'{"keys": {"near": "k"}}'), "complete.json", "near: listed"),
        (write("complete.json", b'{"keys": {"none": "k"}}'), "complete.json", "none: listed"),
    ],
)
def test_each_damage_is_found(dataset_dir: Path, damage: Damage, where: str, problem: str) -> None:
    damage(dataset_dir)
    found = check_results(dataset_dir)
    assert [each for each in found if each.where.startswith(where) and problem in each.problem], (
        f"found only: {'; '.join(map(str, found))}"
    )


@pytest.mark.parametrize(
    "harmless",
    [
        write("masks/near.ome.zarr/.DS_Store", b"x"),
        write("masks/._near.ome.zarr", b"x"),
        write("logs/._near.json", b"x"),
        lambda dataset_dir: start_record(dataset_dir, [], cut=""),
        write("service/lock"),
        write("batches/0001.lock"),
        write("logs/connection/0001.jsonl", b'{"at": "2026-'),
        entry("near", status="not_asked", key=None, object_count=None),
        last_attempt("near", seconds=CallSeconds(total=1.0, send=0.5, service=0.52)),
    ],
)
def test_harmless_files_and_values_are_not_reported(dataset_dir: Path, harmless: Damage) -> None:
    harmless(dataset_dir)
    assert check_results(dataset_dir) == []


def test_a_folder_without_manifests_has_no_findings(dataset_dir: Path) -> None:
    shutil.rmtree(dataset_dir / "batches")
    assert check_results(dataset_dir) == []


def test_a_held_lock_is_reported_as_a_running_run(dataset_dir: Path) -> None:
    with (dataset_dir / "batches" / "0001.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (finding,) = check_results(dataset_dir)
    assert str(finding) == "batches/0001.lock: locked by a process: a run is still running"
    assert check_results(dataset_dir) == []


def test_findings_are_sorted_and_unique(dataset_dir: Path) -> None:
    for image in ("near", "far", "empty"):
        shutil.rmtree(dataset_dir / "masks" / f"{image}.ome.zarr")
    found = [str(finding) for finding in check_results(dataset_dir)]
    assert found == [
        f"logs/{image}.json: done, but there is no mask" for image in ("empty", "far", "near")
    ]


def test_the_check_changes_no_file(dataset_dir: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in dataset_dir.rglob("*"))

    before = state()
    check_results(dataset_dir)
    assert state() == before


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder of results"):
        check_results(tmp_path / "none")


def test_an_empty_folder_has_no_findings(tmp_path: Path) -> None:
    assert check_results(tmp_path) == []


def test_a_correct_complete_json_has_no_findings(dataset_dir: Path) -> None:
    key = json.loads((dataset_dir / "logs" / "near.json").read_text())["key"]
    write_json(dataset_dir / "complete.json", {"image_count": 1, "keys": {"near": key}})
    assert check_results(dataset_dir) == []
