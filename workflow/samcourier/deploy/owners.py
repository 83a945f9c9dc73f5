"""Who needs the local service: one file per process, named so that a reused pid fools nobody."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

#: Set by the Snakefile to its own process, so that the service lives as long as the run.
OWNER_VARIABLE = "SAMCOURIER_RUN_PID"


def process_identity(pid: int) -> str | None:
    """Return ``pid-created`` of a running process, None when there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{pid}-{int(process.create_time() * 1000)}"
    except psutil.NoSuchProcess:
        return None


def is_running(identity: str) -> bool:
    """Tell whether exactly that process still runs."""
    pid_text = identity.partition("-")[0]
    return pid_text.isdigit() and process_identity(int(pid_text)) == identity


def add_owner(directory: Path, pid: int) -> None:
    """Say that process ``pid`` needs the service until it ends."""
    identity = process_identity(pid)
    if identity is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / identity).touch()


def add_run(directory: Path) -> None:
    """Say that the run needs the service: the process in SAMCOURIER_RUN_PID, this one if unset."""
    add_owner(directory, int(os.environ.get(OWNER_VARIABLE) or os.getpid()))


def living_owners(directory: Path) -> list[str]:
    """Return the owners that still run and forget the others."""
    living = []
    for entry in directory.iterdir() if directory.is_dir() else ():
        if is_running(entry.name):
            living.append(entry.name)
        else:
            entry.unlink(missing_ok=True)
    return living
