"""What the README and the docs tell to type does what they say, in a clean copy of the project."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

REPO = Path(__file__).parents[2]

#: Installing into a new environment and the demo's 24 images, on a slow machine.
RUN_TIMEOUT_S = 900
#: Each of the docs' blocks: three images, a service with them.
BLOCK_TIMEOUT_S = 300
GONE_TIMEOUT_S = 180

#: What the docs call the folder of somebody's images.
PLATE = "/data/plate7"


def shell_blocks(page: str) -> list[str]:
    """Return the shell blocks of a page in its order."""
    return re.findall(r"^```sh\n(.*?)^```", (REPO / page).read_text(), re.S | re.M)


def typed(script: str, folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a script as a person's shell would; what is wrong with it is in the failure."""
    # What this test's own environment and make set must not leak into a person's shell.
    foreign = ("VIRTUAL_", "UV_", "MAKE", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, script + done.stdout[-3000:] + done.stderr[-3000:]
    return done


def wait_until_services_are_gone(folder: Path) -> None:
    """Wait for the services of ended commands, which look once a second whether they are needed."""
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while running := [
        each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)
    ]:
        assert time.monotonic() < deadline_s, running
        time.sleep(0.2)


def project_files() -> list[str]:
    """Return the files as they would be committed now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a folder that has seen nothing else."""
    copy = tmp_path_factory.mktemp("clean") / "samcourier"
    for name in project_files():
        source, target = REPO / name, copy / name
        if not source.exists() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    return copy


@pytest.fixture(scope="module")
def printed(clean_copy: Path) -> str:
    """What the README's first command printed there."""
    run = shell_blocks("README.md")[0].splitlines()[0].partition("#")[0]
    return typed(run, clean_copy, RUN_TIMEOUT_S).stdout


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    first = shell_blocks("README.md")[0].splitlines()
    assert [line.partition("#")[0].strip() for line in first] == ["make run", "make test"]
    assert "make test" in (REPO / ".ci/run").read_text().splitlines()


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(RUN_TIMEOUT_S + 60)
def test_make_run_ends_with_a_report_and_24_masks(clean_copy: Path, printed: str) -> None:
    report, masks = (clean_copy / line for line in printed.splitlines()[-2:])
    assert report.name == "report.html"
    assert len(list(masks.glob("*.ome.zarr"))) == 24
    with (report.parent / "report.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    assert [row["status"] for row in rows] == ["done"] * 24
    precisions = [float(row["ap50"]) for row in rows]
    assert min(precisions) > 0.8
    assert next(row for row in rows if row["image"] == "nuclei_13")["object_count"] == "0"


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(RUN_TIMEOUT_S + 6 * BLOCK_TIMEOUT_S)
@pytest.mark.usefixtures("printed")
def test_the_pages_for_own_images_can_be_followed(clean_copy: Path, tmp_path: Path) -> None:
    plate = tmp_path / "plate7"
    plate.mkdir()
    for number in (1, 2, 3):
        name = f"nuclei_{number:02}.tif"
        shutil.copy(clean_copy / "data/demo" / name, plate / name)
    activate = ". .venv/bin/activate\n"
    first, *quick_start = shell_blocks("docs/quick-start.md")
    assert first == "make run\n"
    for block in quick_start:
        typed(activate + block.replace(PLATE, str(plate)), clean_copy, BLOCK_TIMEOUT_S)
    results = clean_copy / "results/plate7"
    assert len(list(results.glob("masks/*.ome.zarr"))) == 3
    alone = next(block for block in shell_blocks("README.md") if "samcourier segment" in block)
    alone = alone.replace("results/plate7", "results/alone").replace(PLATE, str(plate))
    typed(activate + alone, clean_copy, BLOCK_TIMEOUT_S)
    assert (clean_copy / "results/alone/report.html").exists()
    typed(activate + shell_blocks("docs/report.md")[0], clean_copy, BLOCK_TIMEOUT_S)
    assert (clean_copy / "run.zip").stat().st_size > 0
    rerun = shell_blocks("docs/provenance.md")[0].splitlines()[0]
    again = typed(activate + rerun, clean_copy, BLOCK_TIMEOUT_S).stdout
    wait_until_services_are_gone(clean_copy)
    assert again.split() == ["nuclei_01", "equal", "nuclei_02", "equal", "nuclei_03", "equal"]
