"""Whether this user may write what a run writes, for folders that several users share."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError

#: Parts of a results folder in which a run replaces files, or folders of files.
_REPLACING = (
    *("", "run", "batches", "logs", "logs/batches", "logs/connection", "masks", "provenance"),
    *("service", "service/owners", "objects", "tiff", "polygons", "previews", "embeddings"),
)
#: Parts whose files a run opens for writing. All other files are replaced by renaming new ones.
_OPENED = ("", "batches", "logs", "logs/batches", "logs/connection", "service")
_OPENED_SUFFIXES = (".lock", ".log", ".jsonl", ".txt")
#: Written anew under its name by the process that starts a service.
_REPLACED_LOGS = "service"


def check_writable(dataset_dir: Path) -> None:
    """Raise InputError with the first folder or file of a run that this user may not write.

    The line names its owner and permissions, and what its owner has to do. A results folder that
    does not exist must be creatable.
    """
    for path in _paths(dataset_dir):
        check_path_writable(path, dataset_dir if dataset_dir.exists() else path)


def check_path_writable(path: Path, root: Path) -> None:
    """Raise InputError unless this user may write a file, or list and change a folder.

    ``root`` is the folder with ``path`` that the users share.
    """
    needed = os.W_OK | os.X_OK | os.R_OK if path.is_dir() else os.W_OK
    if not os.access(path, needed):
        raise InputError(describe_unwritable(path, root))


def describe_unwritable(path: Path, root: Path) -> str:
    """Return one line about a path that this user may not write, and how to change that."""
    found = path.stat()
    owner, me = user_name(found.st_uid), user_name(os.geteuid())
    return (
        f"{path} ({stat.filemode(found.st_mode)}, owner {owner}, group {group_name(found.st_gid)}):"
        f" {me} may not write it, expected a folder that both may write: {owner} runs"
        f" `chmod -R g+rwX {root}` and sets `umask 002` before each run"
    )


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has no name here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def group_name(gid: int) -> str:
    """Return the name of a group, or the number if it has no name here."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _paths(dataset_dir: Path) -> Iterator[Path]:
    if not dataset_dir.exists():
        yield next(parent for parent in dataset_dir.absolute().parents if parent.exists())
        return
    for part in _REPLACING:
        folder = dataset_dir / part
        if folder.is_dir():
            yield folder
    for part in _OPENED:
        yield from _opened_files(dataset_dir / part)


def _opened_files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        is_opened = f".{entry.name}".endswith(_OPENED_SUFFIXES) and entry.is_file()
        if is_opened and not (folder.name == _REPLACED_LOGS and entry.name.endswith(".log")):
            yield folder / entry.name
