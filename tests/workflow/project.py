"""A user's folder with the real workflow and a samcourier that acts by script."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import runpy
import sysconfig
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_samcourier.py")
RUNNER = Path(__file__).with_name("run_snakemake.py")
FORKSERVER = multiprocessing.get_context("forkserver")
IMAGES = tuple(f"img_{number}" for number in range(1, 8))
CONFIG = {"dataset": "cells", "sheet": "config/images.tsv", "batch_size": 3}
SERVICE = ["deploy", "verify"]
#: Against hanging only: beside other work a run of seconds takes a minute.
RUN_TIMEOUT_S = 240


class Project:
    """A folder of a user: a config, a sheet of seven images in batches of three, no workflow."""

    def __init__(self, directory: Path, bin_directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(
                [str(REPO / "workflow"), str(REPO / "service"), sysconfig.get_path("platlib")]
            ),
            "XDG_CACHE_HOME": str(bin_directory.parent / "cache"),
        }

    def __truediv__(self, path: str) -> Path:
        return self.directory / path

    def configure(self, **changes: Any) -> None:
        (self / "config/config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))

    def write_sheet(self, *images: str) -> None:
        rows = [f"{image}\tdata/{image}.tif" for image in images]
        (self / "config/images.tsv").write_text("\n".join(["image\tpath", *rows]) + "\n")

    def script(self, **script: Any) -> None:
        (self / "fake.json").write_text(json.dumps(script))

    def start(self, *arguments: str) -> ForkServerProcess:
        """Start snakemake in a session of its own, with its output in ``output.txt``."""
        job = {
            "directory": str(self.directory),
            "environment": self.environment,
            "output": str(self.directory.parent / "output.txt"),
            "arguments": ["-s", str(REPO / "Snakefile"), "--cores", "2", *arguments],
        }
        process = FORKSERVER.Process(
            target=runpy.run_path, args=(str(RUNNER),), kwargs={"init_globals": {"job": job}}
        )
        process.start()
        return process

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run snakemake and return its output. Forgets the calls of earlier runs."""
        (self / "calls.jsonl").unlink(missing_ok=True)
        process = self.start(*arguments)
        process.join(RUN_TIMEOUT_S)
        assert process.exitcode == status, self.output
        process.close()
        return self.output

    @property
    def output(self) -> str:
        """What the last started run has said so far."""
        return (self.directory.parent / "output.txt").read_text()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls so far. The lock waits for the end of a line that is being written."""
        try:
            with (self / "calls.jsonl").open() as lines:
                fcntl.flock(lines, fcntl.LOCK_SH)
                return [json.loads(line) for line in lines]
        except FileNotFoundError:
            return []

    @property
    def ran(self) -> list[str]:
        """What samcourier was called for since the last run began, batches in the sheet's order."""
        names = [call["name"] for call in self.calls]
        batches = sorted(name for name in names if name.isdigit())
        before = [name for name in names if name in ("demo-data", *SERVICE, "undeploy")]
        return [*before, *batches, *(name for name in names if name == "report")]

    def tree(self) -> dict[str, tuple[int, int]]:
        """Return {path: (mtime_ns, size)} of everything but what Snakemake keeps for itself."""
        return {
            str(path.relative_to(self.directory)): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in [self.directory, *self.directory.rglob("*")]
            if ".snakemake" not in path.parts and path != self.directory
        }

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)


def make_project(directory: Path, bin_directory: Path) -> Project:
    project = Project(directory, bin_directory)
    (project / "config").mkdir(parents=True)
    (project / "data").mkdir()
    project.configure()
    project.write_sheet(*IMAGES)
    for image in IMAGES:
        (project / f"data/{image}.tif").write_text(image)
    return project


def settings(call: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in the file that a command was given."""
    return call["options"]["settings"]
