"""A results folder of an earlier version, its ``.snakemake`` included, is still up to date.

``results_of_ab54674.tar.xz`` was written by a real run at commit ab54674: four images in two
batches with ``outputs: [objects_csv]``. The archive keeps the times of the files; the folder of the
service, which holds its token, is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from samcourier.evaluation.check import check_results
from samcourier.masks.integrity import provenance_if_complete
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path

REPO = Path(__file__).parents[2]
ARCHIVE = Path(__file__).with_name("results_of_ab54674.tar.xz")
IMAGES = [f"cell_{number}" for number in range(1, 5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in (folder / "results").rglob("*")
        if path.is_file()
    }


def run(folder: Path, *arguments: str) -> str:
    """Run the real workflow with its profile, as a user of a checkout does."""
    snakemake = Path(sys.executable).with_name("snakemake")
    done = subprocess.run(
        [
            snakemake,
            *("--snakefile", REPO / "workflow/Snakefile", "--cores", "2"),
            *("--workflow-profile", REPO / "workflow/profiles/default"),
            *arguments,
        ],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--dry-run"], []], ids=["dry run", "run"])
def test_nothing_is_to_be_done(folder: Path, arguments: list[str]) -> None:
    before = tree(folder)
    assert "Nothing to be done" in run(folder, *arguments)
    assert tree(folder) == before


def test_its_records_are_read_and_its_masks_are_whole(folder: Path) -> None:
    results = folder / "results/cells"
    assert check_results(results) == []
    for image in IMAGES:
        log = read_image_log(log_path(results, image))
        assert log is not None and log.status == "done"
        assert (provenance_if_complete(mask_path(results, image)) or {})["key"] == log.key


def test_an_image_that_is_appended_makes_its_batch_alone(folder: Path) -> None:
    before = tree(folder)
    with (folder / "config/images.tsv").open("a") as sheet:
        sheet.write("cell_5\tdata/cell_4.tif\t0.5\n")
    run(folder)
    after = tree(folder)
    kept = [
        path for path in before if "/masks/" in path or path.endswith(("0001.json", "0002.json"))
    ]
    assert kept
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert mask_path(folder / "results/cells", "cell_5").is_dir()
