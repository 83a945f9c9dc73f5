"""The paths in the results folder, and checks of its outputs. Standard library only.

The Snakefile imports this module at parse time, through :mod:`samcourier.results.pending`, so it
may import nothing heavy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ..masks.integrity import MASK_SUFFIXES, MaskContainer, content_sha256, stat_mask


def mask_path(dataset_dir: Path, image: str, container: MaskContainer = "folder") -> Path:
    """Return the path to which the mask of ``image`` is written: a folder or a zip file."""
    return dataset_dir / "masks" / f"{image}{MASK_SUFFIXES[container]}"


def find_mask(dataset_dir: Path, image: str) -> Path:
    """Return the path of the mask of ``image``: the folder, or the zip if only that exists."""
    folder, zipped = (mask_path(dataset_dir, image, each) for each in MASK_SUFFIXES)
    return zipped if zipped.is_file() and not folder.exists() else folder


#: The outputs in the results folder that can be made from a mask: folder and suffix of each.
OUTPUT_FILES = {
    "tiff": ("tiff", ".ome.tif"),
    "objects_csv": ("objects", ".csv"),
    "objects_parquet": ("objects", ".parquet"),
    "polygons": ("polygons", ".geojson"),
    "preview": ("previews", ".png"),
}
#: All values that the config's ``outputs`` may list.
OUTPUTS = (*OUTPUT_FILES, "input_labels")


def output_path(dataset_dir: Path, image: str, name: str, recorded: str | None = None) -> Path:
    """Return the path of an output of ``image``: by its name, or else the ``recorded`` path."""
    if name not in OUTPUT_FILES:
        return Path(recorded or os.devnull)
    folder, suffix = OUTPUT_FILES[name]
    return dataset_dir / folder / f"{image}{suffix}"


def stat_output(path: Path) -> tuple[int, int] | None:
    """Return (file count, total bytes) of an output, None if it does not exist."""
    if path.is_dir():
        return stat_mask(path)
    try:
        return 1, path.stat().st_size
    except OSError:
        return None


def output_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of an output, a file or a label group. Raises OSError."""
    if path.is_dir():
        return content_sha256(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_output_complete(path: Path, sha256: str | None) -> bool:
    """Return whether an output exists and still has the digest ``sha256``."""
    try:
        return output_sha256(path) == sha256
    except OSError:
        return False


def manifest_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return the path of the manifest of a batch."""
    return dataset_dir / "batches" / f"{batch_id}.json"


def log_path(dataset_dir: Path, image: str) -> Path:
    """Return the path of the log of ``image``."""
    return dataset_dir / "logs" / f"{image}.json"


def connection_journal_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return the path of the connection journal of a batch."""
    return dataset_dir / "logs" / "connection" / f"{batch_id}.jsonl"


def is_held(lock: Path) -> bool:
    """Return whether a process of this host holds the lock; a missing lock is free."""
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
