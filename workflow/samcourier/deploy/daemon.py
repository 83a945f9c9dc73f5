"""Detached processes that a run starts once: the local service, the supervisor of a SLURM job."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..errors import ServiceFailed
from ..formatting import plain
from ..processes import is_running, pid_of, process_identity

T = TypeVar("T")

_POLL_S = 0.05


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Hold the lock of ``directory``, so that parallel jobs start one process, not several."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start_detached(
    name: str,
    command: list[str],
    log_path: Path,
    find_record: Callable[[str | None], T | None],
    timeout_s: float,
) -> T:
    """Start a process that outlives this one, and return the record that it writes when ready.

    Args:
        name: What the process is, for error messages.
        command: The program and its arguments.
        log_path: The file for the output of the process.
        find_record: Returns the record for the identity of the process, None while there is none.
        timeout_s: The seconds within which the record must exist.

    Raises ServiceFailed with the last line of the log when the process ends too early, and when
    there is no record within ``timeout_s``; then the process is killed.
    """
    if log_path.exists() and not os.access(log_path, os.W_OK):
        # The log of another user's process, in a folder that they share.
        log_path.unlink()
    pid = _spawn(command, log_path)
    process = process_identity(pid)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        record = find_record(process)
        if record is not None:
            return record
        if os.waitpid(pid, os.WNOHANG)[0]:
            last = last_lines(log_path, 1) or "its log is empty"
            raise ServiceFailed(f"{name} did not start: {last} (see {log_path})")
        time.sleep(_POLL_S)
    os.kill(pid, signal.SIGKILL)
    raise ServiceFailed(f"{name} was not ready within {timeout_s:g} s (see {log_path})")


class _Log(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes a line, with its time, for each record."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the log file is on the file system whose errors it may report."""


def log_to_stderr() -> None:
    """Send samcourier's log to standard error, the log file of this detached process."""
    logger = logging.getLogger("samcourier")
    logger.addHandler(_Log())
    logger.setLevel(logging.INFO)
    logger.propagate = False


def end_process(identity: str, timeout_s: float) -> None:
    """End the process with this identity, and wait until it has ended.

    After ``timeout_s`` seconds the process is killed.
    """
    _send(identity, signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while is_running(identity) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    _send(identity, signal.SIGKILL)


def is_own_file(path: Path) -> bool:
    """Return whether ``path`` is this user's; others replace files in a shared folder."""
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def last_lines(log_path: Path, count: int) -> str:
    """Return the last ``count`` lines with text, safe for a terminal; empty without a log."""
    try:
        lines = log_path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([plain(line) for line in lines if line.strip()][-count:])


def _spawn(command: list[str], log_path: Path) -> int:
    """Start a process in its own session and return its pid.

    So Ctrl-C ends only the run; the process ends after the run.
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


def _send(identity: str, number: signal.Signals) -> None:
    pid = pid_of(identity)
    if pid is not None and is_running(identity):
        # In a shared folder the process may be another user's, who ends it with the run.
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
