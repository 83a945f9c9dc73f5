"""The lock of a results folder: one run at a time writes to it, from whatever working folder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import InputError
from .permissions import check_writable, user_name
from .timestamps import utc_now

LOCK_NAME = ".run.lock"


def lock_results(dataset_dir: Path) -> IO[str]:
    """Lock a results folder for a run of this process, and return the file that holds the lock.

    The lock is free again when the file is closed or the process has ended, even if it was killed.
    Raises InputError, one line, while another run holds the lock, if this user lacks a permission
    in the folder, or if its file system has no locks.
    """
    check_writable(dataset_dir)
    dataset_dir.mkdir(parents=True, exist_ok=True)
    path = dataset_dir / LOCK_NAME
    lock = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise InputError(
            f"{dataset_dir} is in use by {holder or 'another run'}, expected no other run of"
            " this dataset"
        ) from None
    except OSError as error:
        lock.close()
        raise InputError(
            f"{path}: cannot be locked ({error.strerror}), expected a file system with locks (for"
            " Lustre the mount option flock)"
        ) from None
    lock.truncate(0)
    print(
        f"process {os.getpid()} of {user_name(os.getuid())} on {platform.node()} since {utc_now()}",
        file=lock,
        flush=True,
    )
    return lock


@contextmanager
def locked_results(dataset_dir: Path) -> Iterator[None]:
    """Hold the lock of a results folder, see :func:`lock_results`."""
    with lock_results(dataset_dir):
        yield
