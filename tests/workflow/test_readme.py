"""The README's commands, typed in a clean copy of the project, do what it says."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
README = (REPO / "README.md").read_text()

#: Installing into a new environment and the demo's 24 images, on a slow machine.
RUN_TIMEOUT_S = 900


def commands_of(heading: str) -> list[str]:
    """Return the lines of the first shell block below a heading."""
    section = README.partition(f"## {heading}\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.S)
    assert block is not None, f"README: no shell block below {heading!r}"
    return [line.partition("#")[0].strip() for line in block[1].splitlines() if line.strip()]


@pytest.fixture
def clean_copy(tmp_path: Path) -> Path:
    """The project as it would be committed now, in a folder that has seen nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    copy = tmp_path / "samcourier"
    for name in filter(None, listed.stdout.split("\0")):
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


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    run, test = commands_of("Two commands")
    assert (run, test) == ("make run", "make test")
    assert test in (REPO / ".ci/run").read_text().splitlines()


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(RUN_TIMEOUT_S + 60)
def test_make_run_ends_with_a_report_and_24_masks(clean_copy: Path) -> None:
    run = commands_of("Two commands")[0]
    # What this test's own environment and make set must not leak into a person's shell.
    foreign = ("VIRTUAL_", "UV_", "MAKE", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    done = subprocess.run(
        run.split(),
        cwd=clean_copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report, masks = (clean_copy / line for line in done.stdout.splitlines()[-2:])
    assert report.name == "report.html"
    assert len(list(masks.glob("*.ome.zarr"))) == 24
    with (report.parent / "report.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    assert [row["status"] for row in rows] == ["done"] * 24
    precisions = [float(row["ap50"]) for row in rows]
    assert min(precisions) > 0.8
    assert next(row for row in rows if row["image"] == "nuclei_13")["object_count"] == "0"
