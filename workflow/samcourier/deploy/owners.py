"""Who needs the local service: one file per process, named so that a reused pid fools nobody."""

from __future__ import annotations

import logging
import os
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
#: How long a service is kept while nobody can tell who needs it.
UNKNOWN_LIMIT_S = 900.0


def add_owner(directory: Path, pid: int) -> None:
    """Say that process ``pid`` needs the service until it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = process_identity(pid)
    if identity is not None:
        (directory / identity).touch()


def add_run(directory: Path) -> None:
    """Say that the run needs the service: the process in SAMCOURIER_RUN_PID, this one if unset."""
    add_owner(directory, int(os.environ.get(OWNER_VARIABLE) or os.getpid()))


def living_owners(directory: Path) -> list[str]:
    """Return the owners that still run and forget the others.

    Raises OSError, also for a folder that is not there: that is no word of who runs.
    """
    living = []
    for entry in directory.iterdir():
        if is_running(entry.name):
            living.append(entry.name)
        else:
            with suppress(OSError):
                entry.unlink()
    return living


@dataclass
class OwnersWatch:
    """Whether a service is needed: an owner lives, or nobody can tell just now.

    A file system that errs or is away is logged once and asked again.
    """

    directory: Path
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[str, ...] = ()
    _unknown_since_s: float | None = None

    def is_needed(self) -> bool:
        """Raise ServiceFailed after a quarter of an hour in which nobody could tell."""
        try:
            self._seen = self._living()
        except OSError as error:
            self._bear(error)
            return True
        self._unknown_since_s = None
        return bool(self._seen)

    def _living(self) -> tuple[str, ...]:
        try:
            return tuple(living_owners(self.directory))
        except FileNotFoundError:
            # A mount that is away, unless its owners have all ended: then the folder was removed.
            if not self._seen or any(is_running(owner) for owner in self._seen):
                raise
            return ()

    def _bear(self, error: OSError) -> None:
        now_s = self.clock()
        if self._unknown_since_s is None:
            self._unknown_since_s = now_s
            logger.warning("who needs the service is not known just now: %s", error)
        if now_s - self._unknown_since_s >= UNKNOWN_LIMIT_S:
            raise ServiceFailed(
                f"who needs the service was not known for {UNKNOWN_LIMIT_S / 60:g} min: {error}"
            )
