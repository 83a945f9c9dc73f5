"""A real run's crate: valid for the public validator, and enough to make the same masks again."""

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
#: What the profiles recommend and the crate does not have, with the reason.
NOT_FOLLOWED = {
    "process-run-crate-0.5_3.2": "software without a page of its own has no url",
    "process-run-crate-0.5_5.1": "the check looks at schema.org's classes, not at the crate",
    "process-run-crate-0.5_8.6": "nobody's name is kept, so there is no agent",
    "ro-crate-1.1_22.1": "nobody is asked for a license, so none is linked",
    "ro-crate-1.1_22.2": "nobody's name is kept, so there is no author",
    "ro-crate-1.1_22.3": "nobody's name is kept, so there is no publisher",
    "workflow-ro-crate-1.0_6.1": "there is no README.md, which is optional",
    "workflow-ro-crate-1.0_6.2": "there is no README.md, which is optional",
    "workflow-ro-crate-1.0_8.1": "Bioschemas wants a creator and a license of the workflow",
}


@dataclass
class Lab:
    """A folder in which snakemake segmented images, one of them unreadable."""

    directory: Path
    said: str

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


def unfollowed(crate: Path) -> list[tuple[str, str, str]]:
    return [issue for issue in validate(crate) if issue[1] not in NOT_FOLLOWED]


def metadata(crate: Path) -> dict[str, Any]:
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def test_the_crate_of_a_run_is_valid(lab: Lab) -> None:
    assert unfollowed(lab.results) == []
    found = metadata(lab.results)
    action = next(each for each in found.values() if each["@type"] == "CreateAction")
    assert action["error"] == "1 of 4 images have no mask"
    assert found["./"]["mainEntity"] == {"@id": "provenance/workflow/Snakefile"}


def test_the_validator_does_find_faults(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.results, tmp_path / "cells")
    path = tmp_path / "cells" / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace("wfrun/workflow/0.5", "wfrun/nothing/0.5"))
    assert ("REQUIRED", "workflow-run-crate-0.5_2.1") in {
        each[:2] for each in validate(path.parent)
    }


def test_masks_are_made_again_where_the_images_lie_elsewhere(lab: Lab) -> None:
    elsewhere = lab.directory / "elsewhere"
    shutil.copytree(lab.directory / "data", elsewhere)
    said = lab.samcourier("rerun", "results/cells", "--images-dir", elsewhere, "--out", "again")
    assert [line for line in said.splitlines() if "\t" in line] == [
        f"{image}\tequal" for image in IMAGES
    ]
    assert "all 3 masks equal the recorded ones" in said
    assert unfollowed(lab.directory / "again") == []
    assert metadata(lab.directory / "again")["./"]["mainEntity"] == {"@id": "provenance/segment.sh"}


def test_images_that_are_others_are_named_before_anything_is_called(lab: Lab) -> None:
    others = lab.directory / "others"
    shutil.copytree(lab.directory / "data", others)
    (others / "near.tif").unlink()
    tifffile.imwrite(others / "far.tif", np.zeros((96, 96), np.uint16))
    said = lab.samcourier(
        *("rerun", "results/cells", "--images-dir", others, "--out", "never"), status=1
    )
    assert [line.split(":")[0] for line in said.splitlines()] == ["near", "far", "Error"]
    assert "2 of 3 images differ from the recorded ones" in said
    assert not (lab.directory / "never").exists()


def test_another_service_is_refused_unless_asked_for(lab: Lab, tmp_path: Path) -> None:
    crate = tmp_path / "cells"
    shutil.copytree(lab.results, crate, ignore=shutil.ignore_patterns("service"))
    path = crate / "provenance/services.json"
    now = WatershedEngine().describe()["segmentation_version"]
    told = f'"segmentation_version": {now}'
    changed = path.read_text().replace(told, f'"segmentation_version": {now + 1}')
    path.write_text(changed)
    said = lab.samcourier("rerun", crate, status=1)
    assert f"{path}: changed since the crate was written" in said
    assert changed != (lab.results / "provenance/services.json").read_text()
    reseal(crate, path)
    said = lab.samcourier("rerun", crate, "--out", tmp_path / "out", status=1)
    assert f"its segmentation_version is {now}, the masks' {now + 1}" in said
    said = lab.samcourier("rerun", crate, "--out", tmp_path / "out", "--other-service")
    assert "all 3 masks equal the recorded ones" in said


def test_results_of_another_run_are_not_taken_for_made_again(lab: Lab) -> None:
    said = lab.samcourier("rerun", "results/cells", "--out", "results/cells", status=1)
    assert "holds other results" in said


def reseal(crate: Path, path: Path) -> None:
    """Record the file as it is now, as whoever forges a crate would."""
    import hashlib

    where = crate / "ro-crate-metadata.json"
    content = json.loads(where.read_text())
    for entity in content["@graph"]:
        if entity["@id"] == path.relative_to(crate).as_posix():
            entity["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    where.write_text(json.dumps(content))
