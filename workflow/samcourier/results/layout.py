"""Where everything lies in the results folder, and whether a mask holds. Standard library only.

:mod:`samcourier.results.pending`, which the Snakefile asks at parse time, stands on it: nothing
heavy may be imported here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ..masks.integrity import MASK_SUFFIXES, MaskContainer, content_sha256, stat_mask


def mask_path(dataset_dir: Path, image: str, container: MaskContainer = "folder") -> Path:
    """Return where the mask of ``image`` is written in this form: a folder or a zip of it."""
    return dataset_dir / "masks" / f"{image}{MASK_SUFFIXES[container]}"


def find_mask(dataset_dir: Path, image: str) -> Path:
    """Return where the mask of ``image`` lies: the folder, or the zip where only that is there."""
    folder, zipped = (mask_path(dataset_dir, image, each) for each in MASK_SUFFIXES)
    return zipped if zipped.is_file() and not folder.exists() else folder


#: What can be made of a mask in the results folder: its folder and suffix.
OUTPUT_FILES = {
    "tiff": ("tiff", ".ome.tif"),
    "objects_csv": ("objects", ".csv"),
    "objects_parquet": ("objects", ".parquet"),
    "polygons": ("polygons", ".geojson"),
    "preview": ("previews", ".png"),
}
#: All that ``outputs`` of the config may ask for.
OUTPUTS = (*OUTPUT_FILES, "input_labels")


def output_path(dataset_dir: Path, image: str, name: str, recorded: str | None = None) -> Path:
    """Return where an output of ``image`` lies: by its name, or where its record says."""
    if name not in OUTPUT_FILES:
        return Path(recorded or os.devnull)
    folder, suffix = OUTPUT_FILES[name]
    return dataset_dir / folder / f"{image}{suffix}"


def stat_output(path: Path) -> tuple[int, int] | None:
    """Return (file count, total bytes) of an output, None when there is none."""
    if path.is_dir():
        return stat_mask(path)
    try:
        return 1, path.stat().st_size
    except OSError:
        return None


def output_sha256(path: Path) -> str:
    """Return the digest of an output, a file or a label group. Raises OSError."""
    if path.is_dir():
        return content_sha256(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_output_whole(path: Path, sha256: str | None) -> bool:
    """Tell whether an output is there as it was written."""
    try:
        return output_sha256(path) == sha256
    except OSError:
        return False


def manifest_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return where the manifest of a batch lies."""
    return dataset_dir / "batches" / f"{batch_id}.json"


def log_path(dataset_dir: Path, image: str) -> Path:
    """Return where the log of ``image`` lies."""
    return dataset_dir / "logs" / f"{image}.json"


def connection_journal_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return where a batch writes what its connection manager saw."""
    return dataset_dir / "logs" / "connection" / f"{batch_id}.jsonl"


def is_held(lock: Path) -> bool:
    """Tell whether a process of this host holds the lock; one that does not exist is free."""
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
