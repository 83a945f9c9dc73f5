"""Projects to run: a fresh one, and one that was run to its end."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from .project import FAKE, FORKSERVER, Project, make_project


@pytest.fixture(scope="session")
def imported_snakemake() -> None:
    """Import snakemake once, in the process that the runs are forked from."""
    FORKSERVER.set_forkserver_preload(
        ["snakemake.cli", "snakemake.report.html_reporter", "smart_open", "jsonschema"]
    )
    process = FORKSERVER.Process(target=os.getpid)
    process.start()
    process.join()
    process.close()


@pytest.fixture(scope="session")
def bin_directory(tmp_path_factory: pytest.TempPathFactory, imported_snakemake: None) -> Path:
    directory = tmp_path_factory.mktemp("fake") / "bin"
    directory.mkdir()
    command = directory / "samcourier"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
    command.chmod(0o755)
    return directory


@pytest.fixture
def fresh(tmp_path: Path, bin_directory: Path) -> Project:
    return make_project(tmp_path / "project", bin_directory)


@pytest.fixture(scope="session")
def finished_once(
    tmp_path_factory: pytest.TempPathFactory, bin_directory: Path
) -> tuple[Path, list[str]]:
    project = make_project(tmp_path_factory.mktemp("finished") / "project", bin_directory)
    project.run()
    return project.directory, project.ran


@pytest.fixture
def finished(tmp_path: Path, bin_directory: Path, finished_once: tuple[Path, list[str]]) -> Project:
    """A project that was run to its end; copies keep their times."""
    shutil.copytree(finished_once[0], tmp_path / "project")
    (tmp_path / "project/calls.jsonl").unlink()
    return Project(tmp_path / "project", bin_directory)
