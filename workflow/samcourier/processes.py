"""Identify processes, also when process numbers are reused."""

from __future__ import annotations

import re
from pathlib import Path

_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_IDENTITY = re.compile("([0-9]{1,10})-[0-9A-Za-z-]{1,80}")


def process_identity(pid: int) -> str | None:
    """Return a unique name of a running process, None when it does not run.

    On Linux ``pid-start-boot``: its start in ticks since the boot, and that boot's id. Both stay
    the same when the clock is set, unlike the creation time of psutil. Elsewhere
    ``pid-created``.
    """
    boot_id = _boot_id()
    if boot_id is None:
        created_ms = _created_ms(pid)
        return None if created_ms is None else f"{pid}-{created_ms}"
    start_ticks = _start_ticks(pid)
    return None if start_ticks is None else f"{pid}-{start_ticks}-{boot_id}"


def pid_of(identity: str) -> int | None:
    """Return the pid in a name of :func:`process_identity`, None for any other text."""
    found = _IDENTITY.fullmatch(identity)
    return None if found is None else int(found[1])


def is_running(identity: str) -> bool:
    """Return True if exactly that process still runs."""
    pid = pid_of(identity)
    return pid is not None and process_identity(pid) == identity


def is_elsewhere(identity: str) -> bool:
    """Return True if the process was started on another host, or before this one was restarted.

    False where a system has no boot id.
    """
    boot_id = _boot_id()
    has_boot_id = len(identity.split("-", 2)) == 3
    return boot_id is not None and has_boot_id and not identity.endswith(f"-{boot_id}")


def _boot_id() -> str | None:
    try:
        return _BOOT_ID_PATH.read_text().strip()
    except (FileNotFoundError, PermissionError):
        return None


def _start_ticks(pid: int) -> int | None:
    """Return field 22 of ``/proc/PID/stat`` (proc(5)); None when there is none, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, and may hold any character.
    state, *fields = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else int(fields[22 - 4])


def _created_ms(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return int(process.create_time() * 1000)
    except psutil.NoSuchProcess:
        return None
