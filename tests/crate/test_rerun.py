"""Tests that the crate of a real run is valid and that a rerun from it makes the same masks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from samservice.engines.watershed import WatershedEngine

pytestmark = [pytest.mark.crate, pytest.mark.live, pytest.mark.slow]

REPO = Path(__file__).parents[2]
IMAGES = ("near", "far", "stack")
RUN_TIMEOUT_S = 240
#: The recommendations of the profiles that the crate does not follow, with the reason.
EXPECTED_ISSUES = {
    "process-run-crate-0.5_3.2": "software without its own web page has no url",
    "process-run-crate-0.5_5.1": "the check concerns classes of schema.org, not the crate",
    "process-run-crate-0.5_8.6": "samcourier stores no user names, so there is no agent",
    "ro-crate-1.1_22.1": "samcourier does not know the license, so none is linked",
    "ro-crate-1.1_22.2": "samcourier stores no user names, so there is no author",
    "ro-crate-1.1_22.3": "samcourier stores no user names, so there is no publisher",
    "workflow-ro-crate-1.0_6.1": "there is no README.md, which is optional",
    "workflow-ro-crate-1.0_6.2": "there is no README.md, which is optional",
    "workflow-ro-crate-1.0_8.1": "the crate has no creator and no license of the workflow",
}


@dataclass
class Lab:
    """A folder in which snakemake segmented images; one image is unreadable.

    ``output`` is what snakemake printed.
    """

    directory: Path
    output: str

    @property
    def results(self) -> Path:
        return self.directory / "results" / "cells"

    def samcourier(self, *arguments: object, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "samcourier.cli", *map(str, arguments)],
            cwd=self.directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == status, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


def snakemake(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "-s", REPO / "Snakefile", "--cores", "2"],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=RUN_TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    directory = tmp_path_factory.mktemp("lab")
    (directory / "config").mkdir()
    (directory / "data").mkdir()
    rng = np.random.default_rng(5)
    for image in IMAGES:
        pixels = rng.integers(90, 110, (3, 96, 96), np.uint16)
        for y, x in ((24, 24), (24, 70), (70, 40)):
            pixels[:, y - 9 : y + 9, x - 9 : x + 9] += rng.integers(2000, 3000, dtype=np.uint16)
        pixels = pixels if image == "stack" else pixels[0]
        axes = "ZYX" if image == "stack" else "YX"
        path = directory / "data" / f"{image}.tif"
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": axes})
    (directory / "data" / "torn.tif").write_bytes(b"II*\0torn")
    sheet = ["image\tpath\tz", "near\tdata/near.tif\t", "far\tdata/far.tif\t"]
    sheet += ["stack\tdata/stack.tif\tall", "torn\tdata/torn.tif\t"]
    (directory / "config/images.tsv").write_text("\n".join(sheet) + "\n")
    config = {"dataset": "cells", "sheet": "config/images.tsv", "batch_size": 2}
    (directory / "config/config.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(directory)
    assert done.returncode == 1, done.stdout
    return Lab(directory, done.stdout)


def validate(crate: Path) -> list[tuple[str, str, str]]:
    python = os.environ.get("CRATE_PYTHON", str(REPO / "build/crate-venv/bin/python"))
    done = subprocess.run(
        [python, "-W", "ignore", Path(__file__).with_name("validate.py"), crate],
        text=True,
        capture_output=True,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(issue) for issue in json.loads(done.stdout.splitlines()[-1])]


def unexpected_issues(crate: Path) -> list[tuple[str, str, str]]:
    return [issue for issue in validate(crate) if issue[1] not in EXPECTED_ISSUES]


def metadata(crate: Path) -> dict[str, Any]:
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def test_the_crate_of_a_run_is_valid(lab: Lab) -> None:
    assert unexpected_issues(lab.results) == []
    found = metadata(lab.results)
    action = next(each for each in found.values() if each["@type"] == "CreateAction")
    assert action["error"] == "1 of 4 images have no mask"
    assert found["./"]["mainEntity"] == {"@id": "provenance/workflow/Snakefile"}


def test_the_validator_finds_an_error_in_a_changed_crate(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.results, tmp_path / "cells")
    path = tmp_path / "cells" / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace("wfrun/workflow/0.5", "wfrun/nothing/0.5"))
    assert ("REQUIRED", "workflow-run-crate-0.5_2.1") in {
        each[:2] for each in validate(path.parent)
    }


def test_a_rerun_with_the_images_in_another_folder_makes_equal_masks(lab: Lab) -> None:
    elsewhere = lab.directory / "elsewhere"
    shutil.copytree(lab.directory / "data", elsewhere)
    output = lab.samcourier("rerun", "results/cells", "--images-dir", elsewhere, "--out", "again")
    assert [line for line in output.splitlines() if "\t" in line] == [
        f"{image}\tequal" for image in IMAGES
    ]
    assert "all 3 masks equal the recorded ones" in output
    assert unexpected_issues(lab.directory / "again") == []
    assert metadata(lab.directory / "again")["./"]["mainEntity"] == {"@id": "provenance/segment.sh"}


def test_a_rerun_with_other_images_names_them_and_starts_no_service(lab: Lab) -> None:
    others = lab.directory / "others"
    shutil.copytree(lab.directory / "data", others)
    (others / "near.tif").unlink()
    tifffile.imwrite(others / "far.tif", np.zeros((96, 96), np.uint16))
    output = lab.samcourier(
        *("rerun", "results/cells", "--images-dir", others, "--out", "never"), status=1
    )
    assert [line.split(":")[0] for line in output.splitlines()] == ["near", "far", "Error"]
    assert "2 of 3 images differ from the recorded ones" in output
    assert not (lab.directory / "never").exists()


def test_another_service_is_refused_without_the_option_other_service(
    lab: Lab, tmp_path: Path
) -> None:
    crate = tmp_path / "cells"
    shutil.copytree(lab.results, crate, ignore=shutil.ignore_patterns("service"))
    path = crate / "provenance/services.json"
    version = WatershedEngine().describe()["segmentation_version"]
    field = '"segmentation_version": '
    changed = path.read_text().replace(f"{field}{version}", f"{field}{version + 1}")
    path.write_text(changed)
    output = lab.samcourier("rerun", crate, status=1)
    assert f"{path}: changed since the crate was written" in output
    assert changed != (lab.results / "provenance/services.json").read_text()
    update_hash(crate, path)
    output = lab.samcourier("rerun", crate, "--out", tmp_path / "out", status=1)
    assert f"its segmentation_version is {version}, the masks' {version + 1}" in output
    output = lab.samcourier("rerun", crate, "--out", tmp_path / "out", "--other-service")
    assert "all 3 masks equal the recorded ones" in output


def test_a_rerun_into_a_folder_with_other_results_is_refused(lab: Lab) -> None:
    output = lab.samcourier("rerun", "results/cells", "--out", "results/cells", status=1)
    assert "holds other results" in output


def update_hash(crate: Path, path: Path) -> None:
    """Write the hash of the changed file into the metadata, like a forger of a crate."""
    import hashlib

    where = crate / "ro-crate-metadata.json"
    content = json.loads(where.read_text())
    for entity in content["@graph"]:
        if entity["@id"] == path.relative_to(crate).as_posix():
            entity["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    where.write_text(json.dumps(content))
