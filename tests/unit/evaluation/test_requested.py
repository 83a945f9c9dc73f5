"""A results folder beside the sheet of its last run: counts, exit status, and dropped images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import to_builtins

from samcourier.cli import main
from samcourier.errors import InputError
from samcourier.evaluation.check import check_results
from samcourier.evaluation.requested import files_of_image, read_requested
from samcourier.results.environment import write_run_environment
from samcourier.results.run_lock import LOCK_NAME, locked_results
from samcourier.samples.sheet import ImageRow
from samcourier.settings.run_settings import RunSettings

from ..conftest import COUNTS

DONE = ("near", "far", "kept", "empty")


@pytest.fixture
def dataset_dir(finished_run: Path) -> Path:
    return finished_run / "results" / "demo"


def record(dataset_dir: Path, images: Sequence[str], subset: tuple[str, ...] | None = None) -> None:
    """Write the record of a run that requested ``images``."""
    settings = to_builtins(RunSettings(dataset="demo", images=subset))
    rows = [ImageRow(image, Path(f"data/{image}.tif")) for image in images]
    write_run_environment(dataset_dir, "snakemake", settings, rows)


@pytest.mark.parametrize(
    ("images", "subset", "status", "words"),
    [
        (DONE, None, 0, ["complete, 4 of 4 images have a mask"]),
        (tuple(COUNTS), None, 3, ["4 of 5 images have a mask, 1 failed; none for torn"]),
        (
            (*DONE, *"abcdefgh"),
            None,
            3,
            ["4 of 12 images have a mask; none for a, b, c, d, e and 3 more"],
        ),
        (
            (*DONE, "new"),
            ("near",),
            3,
            ["4 of 5 images have a mask (the last run was limited to near); none for new"],
        ),
        (("near", "far", "kept"), None, 0, ["3 of 3", "no longer in the sheet: 2 (empty, torn)"]),
    ],
)
def test_check_compares_with_the_sheet(
    dataset_dir: Path,
    images: tuple[str, ...],
    subset: tuple[str, ...] | None,
    status: int,
    words: list[str],
) -> None:
    record(dataset_dir, images, subset)
    done = CliRunner().invoke(main, ["check", str(dataset_dir)])
    assert done.exit_code == status, done.output
    assert all(each in done.output for each in words), done.output


def test_damage_is_worse_than_a_missing_mask(dataset_dir: Path) -> None:
    record(dataset_dir, (*DONE, "new"))
    (dataset_dir / "masks/near.ome.zarr/0/0/0").write_bytes(b"")
    done = CliRunner().invoke(main, ["check", str(dataset_dir)])
    assert done.exit_code == 1
    assert "damaged" in done.output


@pytest.mark.parametrize("folder", [(), ("data",)])
def test_a_folder_without_results_is_no_results_folder(
    tmp_path: Path, folder: tuple[str, ...]
) -> None:
    for name in folder:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="no results folder, expected one with provenance"):
        read_requested(tmp_path)
    done = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert "no results folder" in done.output


def test_a_folder_without_its_request_is_not_complete(
    dataset_dir: Path,
) -> None:
    assert read_requested(dataset_dir) is None
    done = CliRunner().invoke(main, ["check", str(dataset_dir)])
    assert done.exit_code == 0
    assert "complete" not in done.output


def test_a_dropped_image_is_no_damage_though_no_manifest_lists_it(dataset_dir: Path) -> None:
    (dataset_dir / "batches/0003.json").unlink()
    assert [each.problem for each in check_results(dataset_dir)] == ["no batch's manifest lists it"]
    assert check_results(dataset_dir, ("empty",)) == []


def test_prune_lists_the_files_of_dropped_images_and_deletes_them_when_told(
    dataset_dir: Path,
) -> None:
    record(dataset_dir, ("far", "kept", "torn", "empty"))
    (dataset_dir / "masks/.gone.ome.zarr.tiles").mkdir()
    near = {dataset_dir / name for name in ("masks/near.ome.zarr", "logs/near.json")}
    near |= {dataset_dir / "objects/near.csv", dataset_dir / "masks/.gone.ome.zarr.tiles"}
    before = set(dataset_dir.rglob("*"))
    listed = CliRunner().invoke(main, ["prune", str(dataset_dir)])
    assert {Path(line) for line in listed.output.splitlines() if line[0] == "/"} == near
    assert "4 files and folders of 2 images; --delete deletes them" in listed.output
    assert set(dataset_dir.rglob("*")) == before
    assert CliRunner().invoke(main, ["prune", "--delete", str(dataset_dir)]).exit_code == 0
    assert not any(path.exists() for path in near)
    assert files_of_image(dataset_dir, "far")
    left = {path for path in before if not any(path.is_relative_to(each) for each in near)}
    assert set(dataset_dir.rglob("*")) == left | {dataset_dir / LOCK_NAME}
    again = CliRunner().invoke(main, ["prune", str(dataset_dir)])
    assert "every image with files is in the sheet" in again.output


def test_prune_needs_the_sheet_of_a_run(dataset_dir: Path) -> None:
    done = CliRunner().invoke(main, ["prune", "--delete", str(dataset_dir)])
    assert done.exit_code == 1
    assert "no record of a run's sample sheet" in done.output


def test_a_mask_that_was_deleted_counts_as_missing(dataset_dir: Path) -> None:
    record(dataset_dir, DONE)
    shutil.rmtree(dataset_dir / "masks/near.ome.zarr")
    requested = read_requested(dataset_dir)
    assert requested is not None
    assert requested.without_mask == ("near",)


def test_prune_deletes_nothing_during_a_run(dataset_dir: Path) -> None:
    record(dataset_dir, ("far",))
    with locked_results(dataset_dir):
        done = CliRunner().invoke(main, ["prune", "--delete", str(dataset_dir)])
        assert done.exit_code == 1
        assert "is in use by process" in done.output
        assert CliRunner().invoke(main, ["prune", str(dataset_dir)]).exit_code == 0
    assert files_of_image(dataset_dir, "near")
