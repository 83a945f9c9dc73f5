"""Two users of one group run on the same results, in a folder whose files get their group."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from samcourier.samples.demo import write_demo

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RUN_TIMEOUT_S = 240
#: Against hanging only: a service looks once a second whether a run still needs it.
GONE_TIMEOUT_S = 180
GROUP = "courierlab"
ANN, BERT = "courierann", "courierbert"

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("useradd") is None,
        reason="makes two users of the system, as root",
    ),
]

#: In a mount namespace of its own, the interpreter lies where other users than root reach it.
OPEN = """
mount --bind "$2" "$3" && mount -t tmpfs -o mode=755 tmpfs "$1" && mkdir -p "$2" &&
mount --bind "$3" "$2" && shift 3 && exec "$@"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def users() -> Iterator[None]:
    made = [["groupadd", GROUP], *(["useradd", "-M", "-g", GROUP, name] for name in (ANN, BERT))]
    try:
        for command in made:
            subprocess.run(command, check=True, capture_output=True)
        yield
    finally:
        for command in (["userdel", ANN], ["userdel", BERT], ["groupdel", GROUP]):
            subprocess.run(command, check=False, capture_output=True)


def wait_until_services_are_gone(folder: Path) -> None:
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while running := [
        each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)
    ]:
        assert time.monotonic() < deadline_s, running
        time.sleep(0.1)


@pytest.fixture
def shared(users: None) -> Iterator[Path]:
    """A folder of the group with two of the demo's images in its sheet."""
    # pytest's own folders are private.
    folder = Path(tempfile.mkdtemp(prefix="courier-shared-", dir="/tmp"))
    try:
        (folder / "config").mkdir()
        write_demo(folder / "data/demo", 7)
        (folder / "config/config.yaml").write_text("dataset: cells\nsheet: images.tsv\n")
        (folder / "images.tsv").write_text("image\tpath\na\tdata/demo/nuclei_01.tif\n")
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "root", GROUP)
            path.chmod(0o2775 if path.is_dir() else 0o664)
        yield folder
    finally:
        # The services of ended runs still delete their own files, which rmtree would then miss.
        wait_until_services_are_gone(folder)
        shutil.rmtree(folder)


@pytest.fixture
def run_as(shared: Path, tmp_path: Path) -> Run:
    base = Path(sys.base_prefix)
    closed = [parent for parent in base.parents if not parent.stat().st_mode & 0o001]
    opened: list[str] = []
    if closed:
        (tmp_path / "base").mkdir()
        opened = ["unshare", "-m", "sh", "-c", OPEN, "sh"]
        opened += [str(closed[-1]), str(base), str(tmp_path / "base")]

    def run(user: str, umask: str, *command: str) -> subprocess.CompletedProcess[str]:
        as_user = ["setpriv", "--reuid", user, "--regid", GROUP, "--init-groups"]
        words = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command]
        home = {"HOME": str(shared), "XDG_CACHE_HOME": f"{shared}/{user}"}
        return subprocess.run(
            [*opened, *as_user, *words],
            cwd=shared,
            env={"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **home},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )

    if run(ANN, "002", str(BIN / "python"), "-c", "import samcourier.cli").returncode:
        pytest.skip("another user than root cannot start this Python")
    return run


def snakemake(run_as: Run, user: str, umask: str, *options: str) -> tuple[int, list[str]]:
    """Run the workflow; return its exit status and the lines that samcourier ended it with."""
    words = ["snakemake", "-s", str(REPO / "workflow/Snakefile"), "--cores", "2", *options]
    done = run_as(user, umask, *words)
    said = (done.stdout + done.stderr).splitlines()
    print("\n".join(said))
    return done.returncode, [line for line in said if line.startswith("samcourier: results")]


def add_row(shared: Path) -> None:
    with (shared / "images.tsv").open("a") as sheet:
        sheet.write("b\tdata/demo/nuclei_02.tif\n")


def test_the_second_user_adds_an_image_where_the_group_may_write(shared: Path, run_as: Run) -> None:
    assert snakemake(run_as, ANN, "002") == (0, [])
    add_row(shared)
    assert snakemake(run_as, BERT, "002") == (0, [])
    masks = shared / "results/cells/masks"
    assert {path.name.partition(".")[0] for path in masks.iterdir()} >= {"a", "b"}
    assert {masks.joinpath(f"{name}.ome.zarr").owner() for name in ("a", "b")} == {ANN, BERT}


def test_the_second_user_is_told_what_the_group_may_not_write(shared: Path, run_as: Run) -> None:
    assert snakemake(run_as, ANN, "022") == (0, [])
    add_row(shared)
    for options in ((), ("-n",)):
        words = ["snakemake", "-s", str(REPO / "workflow/Snakefile"), "--cores", "2", *options]
        done = run_as(BERT, "022", *words)
        said = done.stdout + done.stderr
        assert done.returncode == 1
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("samcourier: ")]
        assert f"owner {ANN}, group {GROUP}): {BERT} may not write it" in line
        assert "umask 002" in line
