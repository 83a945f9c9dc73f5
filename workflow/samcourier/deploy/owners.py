"""The processes that need a service: one file each, named by an identity safe from pid reuse.

The file holds the name of the process's host: of a process elsewhere, nothing is known here.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServiceFailed
from ..processes import is_running, process_identity

logger = logging.getLogger("samcourier.deploy")

#: Set by the Snakefile to its own process, so that the service lives as long as the run.
OWNER_VARIABLE = "SAMCOURIER_RUN_PID"
#: How long a service is kept while its owners cannot be read.
UNKNOWN_LIMIT_S = 900.0


def add_owner(directory: Path, pid: int) -> None:
    """Record in ``directory`` that process ``pid`` needs the service until the process ends."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = process_identity(pid)
    if identity is not None:
        (directory / identity).write_text(platform.node(), encoding="utf-8")


def add_run(directory: Path) -> None:
    """Record that the run needs the service.

    The run is the process in SAMCOURIER_RUN_PID, or this process if the variable is not set.
    """
    add_owner(directory, int(os.environ.get(OWNER_VARIABLE) or os.getpid()))


def living_owners(directory: Path) -> list[str]:
    """Return the owners that run on this host, and delete the files of those that have ended here.

    Files of other hosts are neither counted nor deleted: a service is needed by the runs of the
    host that started it, and only that host knows whether its processes run. Raises OSError, also
    for a missing folder, which does not show that no owner runs.
    """
    living = []
    for entry in directory.iterdir():
        if is_running(entry.name):
            living.append(entry.name)
        elif _host_of(entry) in ("", platform.node()):
            with suppress(OSError):
                entry.unlink()
    return living


def _host_of(entry: Path) -> str:
    """Return the host of an owner; "" for a file of an older version, or one that is gone."""
    try:
        return entry.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    except PermissionError:
        # Of another user, who may be on another host.
        return "unknown"


@dataclass
class OwnerMonitor:
    """Tells whether a service is needed: an owner runs, or the owners cannot be read at present.

    A failure of the file system is logged once, and the owners are read again later.

    Attributes:
        directory: The folder of the owners' files.
        clock: Returns monotonic seconds.
    """

    directory: Path
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[str, ...] = ()
    _unknown_since_s: float | None = None

    def is_needed(self) -> bool:
        """Tell whether the service is needed.

        Raises ServiceFailed when the owners could not be read for ``UNKNOWN_LIMIT_S``.
        """
        try:
            self._seen = self._living()
        except OSError as error:
            self._note_failure(error)
            return True
        self._unknown_since_s = None
        return bool(self._seen)

    def _living(self) -> tuple[str, ...]:
        try:
            return tuple(living_owners(self.directory))
        except FileNotFoundError:
            # The mount is missing, unless all owners have ended: then the folder was removed.
            if not self._seen or any(is_running(owner) for owner in self._seen):
                raise
            return ()

    def _note_failure(self, error: OSError) -> None:
        now_s = self.clock()
        if self._unknown_since_s is None:
            self._unknown_since_s = now_s
            logger.warning(
                "cannot read which processes need the service, will try again: %s", error
            )
        if now_s - self._unknown_since_s >= UNKNOWN_LIMIT_S:
            raise ServiceFailed(
                "could not read which processes need the service for"
                f" {UNKNOWN_LIMIT_S / 60:g} min: {error}"
            )
