"""Every kind of bad input is one clear line, and its neighbours get their masks."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

import samcourier.images.readers.open
from samcourier.errors import ImageUnfit, StorageFailed
from samcourier.images.pixel_cache import PIXELS
from samcourier.images.planes import open_planes
from samcourier.images.readers import check_fits_memory
from samcourier.images.selection import Selection, parse_pick
from samcourier.masks.integrity import is_complete, read_provenance
from samcourier.masks.omezarr import read_mask
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.samples.sheet import ImageRow

from ..bad_images import CASES, Case, ome_zarr, pixels
from .small_batch import BrightestPixel, in_a_process, run_batch


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 2 GB be left, wherever the tests run."""
    memory = SimpleNamespace(available=2_000_000_000, total=3_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def made(case: Case, folder: Path) -> tuple[Path, Selection]:
    folder.mkdir()
    path = folder / (case.name or f"image{case.suffix}")
    case.make(path)
    cells: dict[str, Any] = dict(case.cells)
    for axis in set(cells) & {"t", "z"}:
        cells[axis] = parse_pick(cells[axis], volume=axis == "z")
    return path, Selection(**cells)


def test_there_are_many_kinds() -> None:
    assert len([case for case in CASES.values() if case.refusal is not None]) >= 60


@pytest.mark.parametrize("kind", CASES)
def test_it_is_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    case = CASES[kind]
    path, selection = made(case, tmp_path / "made")
    if case.refusal is None:
        with open_planes(path, selection) as planes:
            assert planes.read().pixels.size > 0
        return
    with pytest.raises(ImageUnfit) as caught, open_planes(path, selection) as planes:
        planes.read()
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert re.search(case.refusal, said)
    assert re.search("expected|write into the column|write the axes", said)
    assert "\n" not in said


async def test_no_bad_image_loses_a_neighbour(tmp_path: Path) -> None:
    rows = []
    for number, case in enumerate(CASES.values()):
        path, selection = made(case, tmp_path / f"{number}")
        neighbour = tmp_path / f"{number}" / "neighbour.tif"
        tifffile.imwrite(neighbour, pixels())
        rows += [
            ImageRow(f"kind{number}", path, selection),
            ImageRow(f"neighbour{number}", neighbour),
        ]
    dataset_dir = tmp_path / "results"
    entries = (await run_batch(rows, dataset_dir)).images
    for number, (kind, case) in enumerate(CASES.items()):
        entry, log = (
            entries[f"kind{number}"],
            read_image_log(log_path(dataset_dir, f"kind{number}")),
        )
        assert log is not None
        if case.refusal is None:
            assert entry.status == log.status == "done", (kind, entry.failure)
        else:
            failure_kind = "missing" if "no such file" in case.refusal else "image"
            assert (entry.failure_kind, log.status) == (failure_kind, "failed"), kind
            assert re.search(case.refusal, entry.failure or ""), kind
        assert entries[f"neighbour{number}"].status == "done", kind
        assert is_complete(mask_path(dataset_dir, f"neighbour{number}")), kind


# What only a user without root's rights, or with a full disk, meets.


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"cell{number}.tif" for number in range(3)]
    for path in paths:
        tifffile.imwrite(path, pixels(64, 64))
    return paths


def test_an_unreadable_file_is_named(tmp_path: Path, images: list[Path]) -> None:
    images[1].chmod(0)
    locked = tmp_path / "locked"
    locked.mkdir()
    inside = images[2].rename(locked / "cell2.tif")
    locked.chmod(0)
    try:
        said = in_a_process([images[0], images[1], inside], tmp_path / "results")
    finally:
        locked.chmod(0o700)
    for image in ("cell1", "cell2"):
        assert f"{image}.tif: cannot be opened (Permission denied), expected" in said[image]
    assert said["cell0"] == "done"


@pytest.mark.parametrize("moment", ["open", "read"])
async def test_a_share_that_is_gone_for_a_moment_condemns_no_image(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    rows = [ImageRow(path.stem, path) for path in images]

    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        if moment == "open":
            patch.setattr(samcourier.images.readers.open, "_opened", gone)
        else:
            patch.setattr(tifffile.TiffPage, "asarray", gone)
            patch.setattr(tifffile.TiffPageSeries, "asarray", gone)
            patch.setattr(tifffile.FileHandle, "read_segments", gone)
        entries = (await run_batch(rows, tmp_path / "results")).images
    assert {entry.failure_kind for entry in entries.values()} == {"unread"}
    assert all("Stale file handle); run again" in str(e.failure) for e in entries.values())
    again = (await run_batch(rows, tmp_path / "results")).images
    assert {entry.status for entry in again.values()} == {"done"}


def test_an_image_is_tried_again_after_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=10, total=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    kinds = []
    for size in (10, 11, 101):
        try:
            check_fits_memory(Path("a.tif"), size)
        except ImageUnfit as error:
            kinds.append(error.kind)
    assert kinds == ["unread", "image"]


async def test_a_read_only_results_folder_stops_the_run_with_a_reason(
    tmp_path: Path, images: list[Path]
) -> None:
    results = tmp_path / "results"
    rows = [ImageRow(path.stem, path) for path in images]
    await run_batch(rows[:1], results)
    for folder in (results / "masks", results / "logs"):
        folder.chmod(0o500)
    said = await asyncio.to_thread(in_a_process, images, results)
    assert re.fullmatch(r"storage: .*results/.*: cannot be written \(Permission denied\)", said[""])
    assert is_complete(mask_path(results, "cell0"))


async def test_a_full_disk_stops_the_run_and_keeps_complete_masks(
    tmp_path: Path, images: list[Path]
) -> None:
    results = tmp_path / "results"
    rows = [ImageRow(path.stem, path) for path in images]
    await run_batch(rows[:1], results)
    said = await asyncio.to_thread(in_a_process, images[1:], results, file_bytes=600)
    assert re.fullmatch(r"storage: .*cell.*: cannot be written \(File too large\)", said[""])
    assert is_complete(mask_path(results, "cell0"))
    assert [path.name for path in (results / "masks").glob("[!.]*")] == ["cell0.ome.zarr"]
    entries = (await run_batch(rows, results)).images
    assert {entry.status for entry in entries.values()} == {"done"}


# Files that others write to meanwhile.


def rewrite(path: Path, array: np.ndarray, **options: Any) -> None:
    before = path.stat().st_mtime_ns
    tifffile.imwrite(path, array, **options)
    # Some file systems count time in coarse steps.
    while path.stat().st_mtime_ns == before:
        time.sleep(0.001)
        path.touch()


@pytest.mark.parametrize("times", [1, 2])
async def test_an_image_that_changed_meanwhile_is_taken_anew(
    tmp_path: Path, images: list[Path], times: int
) -> None:
    versions = [pixels(64, 64) for _ in range(times)]
    waiting = list(versions)

    def change(image: np.ndarray) -> None:
        if waiting:
            rewrite(images[1], waiting.pop(0))

    rows = [ImageRow(path.stem, path) for path in images]
    results = tmp_path / "results"
    manifest = await run_batch(rows, results, BrightestPixel(change))
    assert [entry.status for entry in manifest.images.values()] == ["done"] * 3
    assert read_mask(mask_path(results, "cell1")).argmax() == versions[-1].argmax()


async def test_an_image_that_never_rests_is_named_and_tried_again_by_the_next_run(
    tmp_path: Path, images: list[Path]
) -> None:
    rows = [ImageRow(path.stem, path) for path in images]
    results = tmp_path / "results"
    always = BrightestPixel(lambda image: rewrite(images[1], pixels(64, 64)))
    entries = (await run_batch(rows, results, always)).images
    assert entries["cell1"].failure_kind == "changed"
    assert "cell1.tif: changed while it was being processed" in (entries["cell1"].failure or "")
    assert entries["cell0"].status == entries["cell2"].status == "done"
    entries = (await run_batch(rows, results)).images
    assert {entry.status for entry in entries.values()} == {"done"}


async def test_a_stack_that_changes_while_it_is_read_gets_no_mask(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIXELS, "limit_bytes", 0)
    movie = tmp_path / "movie.zarr"
    group = ome_zarr((8, 20, 30), "tyx")(movie)

    def change(image: np.ndarray) -> None:
        group["0"][:] = pixels(8, 20, 30)

    every = Selection(t=parse_pick("all", volume=False))
    rows = [ImageRow("cell0", images[0]), ImageRow("movie", movie, every)]
    results = tmp_path / "results"
    entries = (await run_batch(rows, results, BrightestPixel(change))).images
    assert (entries["cell0"].status, entries["movie"].failure_kind) == ("done", "changed")
    assert not mask_path(results, "movie").exists()


async def test_a_stack_that_changes_after_reading_has_the_mask_of_the_read_pixels(
    tmp_path: Path,
) -> None:
    movie = tmp_path / "movie.zarr"
    group = ome_zarr((8, 20, 30), "tyx")(movie)

    def change(image: np.ndarray) -> None:
        group["0"][:] = pixels(8, 20, 30)

    every = Selection(t=parse_pick("all", volume=False))
    with open_planes(movie, every) as planes:
        first_sha256 = planes.sha256()
    results = tmp_path / "results"
    await run_batch([ImageRow("movie", movie, every)], results, BrightestPixel(change))
    provenance = read_provenance(mask_path(results, "movie"))
    assert provenance is not None and provenance["pixels_sha256"] == first_sha256


async def test_a_full_file_system_raises_an_error_that_stops_the_batch(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samcourier.segmentation.finish.write_mask", full)
    rows = [ImageRow(path.stem, path) for path in images]
    with pytest.raises(StorageFailed, match=r"cannot be written .No space left on device"):
        await run_batch(rows, tmp_path / "results")
