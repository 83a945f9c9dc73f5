"""The environment in which a run began: config, sample sheet, workflow, software, machine.

It is written when the run begins, since all of it may change before the end.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from .. import __version__
from ..files.atomic import write_atomic, write_if_changed
from ..files.records import decoder, read_versioned, write_record
from ..samples.format import format_sheet
from ..samples.sheet import ImageRow
from .timestamps import parse_time, utc_now

PROVENANCE_SCHEMA = "samcourier/provenance/1"
FOLDER = Path("provenance")
RECORD = FOLDER / "run.json"
SHEET = FOLDER / "images.tsv"
#: The command that makes the masks of a run without Snakemake.
SCRIPT = FOLDER / "segment.sh"
WORKFLOW = FOLDER / "workflow"
SNAKEFILE = WORKFLOW / "Snakefile"

#: Keys about people or the location of a secret; no mask depends on them.
_PRIVATE = ("workspace", "token_file", "worker_id", "authorized_users")
_GIT_TIMEOUT_S = 20.0
_COMMIT = re.compile("[0-9a-f]{40,64}")


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """The machine on which the run began, without its name and its users."""

    system: str
    architecture: str
    cores: int
    memory_bytes: int | None


class Workflow(Struct, frozen=True, forbid_unknown_fields=True):
    """The git checkout: its commit, and whether tracked files differ; None for no checkout."""

    commit: str | None
    is_dirty: bool | None


class RunEnvironment(Struct, frozen=True, forbid_unknown_fields=True):
    """The environment in which a run began.

    ``config`` is the workflow's config without its private keys. ``packages`` are the installed
    versions by name. ``rerun_of`` is the sha256 of the metadata of the crate that the run repeats.
    ``started_at`` is ISO 8601 in UTC.
    """

    started_at: str
    command: Literal["snakemake", "segment", "rerun"]
    rerun_of: str | None
    config: dict[str, Any]
    samcourier: str
    python: str
    packages: dict[str, str]
    workflow: Workflow
    machine: Machine


_DECODERS = {PROVENANCE_SCHEMA: decoder(RunEnvironment)}


def write_run_environment(
    dataset_dir: Path,
    command: Literal["snakemake", "segment", "rerun"],
    config: Mapping[str, Any],
    rows: Sequence[ImageRow],
    *,
    snakefile: Path | None = None,
    segment_options: Iterable[str] = (),
    rerun_of: str | None = None,
) -> None:
    """Write the environment of a run that begins to the folder ``provenance`` of the dataset.

    ``snakefile`` is copied with its rules. Without it, a script with the command
    ``samcourier segment`` and ``segment_options`` is written.
    """
    run_environment = RunEnvironment(
        started_at=utc_now(),
        command=command,
        rerun_of=rerun_of,
        config=without_private_keys(config),
        samcourier=__version__,
        python=platform.python_version(),
        packages=_packages(),
        workflow=_workflow(),
        machine=_machine(),
    )
    write_sheet(dataset_dir, rows)
    (dataset_dir / SCRIPT).unlink(missing_ok=True)
    shutil.rmtree(dataset_dir / WORKFLOW, ignore_errors=True)
    if snakefile is not None:
        home = snakefile.parent
        parts = [*sorted(home.glob("rules/*.smk")), *sorted(home.glob("captions/*.rst"))]
        for part in (snakefile, *parts):
            copy = dataset_dir / WORKFLOW / part.relative_to(home)
            write_atomic(copy, part.read_text(encoding="utf-8"))
    else:
        line = shlex.join(["samcourier", "segment", SHEET.name, *segment_options])
        write_atomic(dataset_dir / SCRIPT, f"{line}\n")
    # The record is written last: if it exists, the folder is complete.
    write_record(dataset_dir / RECORD, run_environment, PROVENANCE_SCHEMA)


def write_sheet(dataset_dir: Path, rows: Sequence[ImageRow]) -> None:
    """Write the sample sheet of the run to the folder ``provenance`` unless it is the same."""
    write_if_changed(dataset_dir / SHEET, format_sheet(rows))


def read_run_environment(dataset_dir: Path) -> RunEnvironment | None:
    """Return the environment in which the run began, None if it is absent or damaged."""
    record = read_versioned(dataset_dir / RECORD, _DECODERS)
    try:
        return record if record is not None and parse_time(record.started_at) else None
    except ValueError:
        return None


def without_private_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` without workspace, worker, users and the path of the token."""
    service = dict(config.get("service") or {})
    kept = {name: value for name, value in service.items() if name not in _PRIVATE}
    if kept.get("server_url"):
        kept["server_url"] = without_credentials(str(kept["server_url"]))
    if kept.get("service_id"):
        # The form is workspace/client:name, and a workspace is named after its user.
        kept["service_id"] = str(kept["service_id"]).replace("/", ":").rpartition(":")[2]
    return {**config, "service": kept}


def without_credentials(url: str) -> str:
    """Return ``url`` without its user name and password, "" if it is no valid URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _packages() -> dict[str, str]:
    found = {str(each.metadata["Name"]): each.version for each in distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _machine() -> Machine:
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory_bytes = None
    return Machine(platform.platform(), platform.machine(), os.cpu_count() or 1, memory_bytes)


def _workflow() -> Workflow:
    """Return the state of the git checkout of this file; an installed package has none."""
    here = Path(__file__).resolve()
    if len(here.parents) < 4 or not (here.parents[3] / ".git").exists():
        return Workflow(None, None)
    commit = _git(here.parents[3], "rev-parse", "HEAD")
    changes = _git(here.parents[3], "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None or not _COMMIT.fullmatch(commit):
        return Workflow(None, None)
    return Workflow(commit, bool(changes))


def _git(checkout: Path, *arguments: str) -> str | None:
    """Return the output of git, which writes nothing and runs no program named by the checkout."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        process = subprocess.run(
            command,
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
