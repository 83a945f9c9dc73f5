"""Bring the local service up when it is needed, once for all jobs of a run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError, ServiceFailed
from ..transports.base import Endpoint
from .owners import add_owner, is_running, process_identity
from .record import LOG_NAME, OWNERS_NAME, TOKEN_NAME, LocalRecord, read_record

#: Set by the Snakefile to its own process, so that the service lives as long as the run.
OWNER_VARIABLE = "SAMCOURIER_RUN_PID"

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0


def ensure_local_service(directory: Path, engine: str, engine_options: dict[str, Any]) -> Endpoint:
    """Return the endpoint of a running local service with this engine, starting it if needed.

    It lives until the process in SAMCOURIER_RUN_PID (this one when unset) has ended. Raises
    ServiceFailed with the service's own last words when it does not come up.
    """
    require_local_extra("service.target local")
    directory = directory.resolve()
    owners = directory / OWNERS_NAME
    add_owner(owners, int(os.environ.get(OWNER_VARIABLE) or os.getpid()))
    # Also for itself: a job may outlive a killed Snakemake and still need its service.
    add_owner(owners, os.getpid())
    with one_at_a_time(directory):
        record = read_record(directory)
        if record is None or not record.serves(engine, engine_options):
            if record is not None:
                stop_local_service(directory)
            record = _start(directory, engine, engine_options)
    return Endpoint(
        server_url=record.server_url,
        workspace=record.workspace,
        service_id=record.service_id,
        rtc_service_id=record.rtc_service_id,
        token=(directory / TOKEN_NAME).read_text(),
    )


def require_local_extra(what: str) -> None:
    """Raise InputError when this installation is the client alone."""
    for package in ("hypha", "scipy", "skimage"):
        if find_spec(package) is None:
            raise InputError(
                f"{what} needs the extra [local] ({package} is not installed):"
                " pip install 'samcourier[local]'"
            )


def _start(directory: Path, engine: str, engine_options: dict[str, Any]) -> LocalRecord:
    log_path = directory / LOG_NAME
    pid = spawn_detached(
        [
            sys.executable,
            "-m",
            "samcourier.deploy.supervisor",
            str(directory),
            "--engine",
            engine,
            "--engine-options",
            json.dumps(engine_options),
        ],
        log_path,
    )
    process = process_identity(pid)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        record = read_record(directory)
        if record is not None and record.process == process:
            return record
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise ServiceFailed(
                f"the local service did not start: {_last_words(log_path)} (see {log_path})"
            )
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise ServiceFailed(
        f"the local service was not ready within {START_TIMEOUT_S:g} s (see {log_path})"
    )


def spawn_detached(command: list[str], log_path: Path) -> int:
    """Start a process that outlives this one and return its pid.

    In a session of its own: Ctrl-C goes to the run, which ends, and then the service with it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def _last_words(log_path: Path) -> str:
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def stop_local_service(directory: Path) -> None:
    """End the recorded service, if it runs, and wait until it is gone."""
    record = read_record(directory)
    if record is None or not is_running(record.process):
        return
    pid = int(record.process.partition("-")[0])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while is_running(record.process) and time.monotonic() < deadline:
        time.sleep(0.05)
    if is_running(record.process):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, so that parallel jobs start one service, not several."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
