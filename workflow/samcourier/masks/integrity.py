"""Check whether a mask on disk is complete and undamaged. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..files.zarr_names import ATTRIBUTES_FILES, METADATA_FILES
from .zipped import NO_DIGEST, is_zip_whole, read_entry

MaskContainer = Literal["folder", "zip"]
MASK_SUFFIX = ".ome.zarr"
#: Suffix of the hidden folder that holds the finished tiles of an unfinished mask.
TILES_SUFFIX = ".tiles"
MASK_SUFFIXES: dict[MaskContainer, str] = {"folder": MASK_SUFFIX, "zip": f"{MASK_SUFFIX}.zip"}
_RECORDED_DIGEST = re.compile(rb'("content_sha256": ")[0-9a-f]{64}"')


def is_zip(mask: Path) -> bool:
    """Return True if the mask is one zip file, by its name."""
    return mask.name.endswith(MASK_SUFFIXES["zip"])


def zarr_files(directory: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yield the chunk and metadata files below ``directory``, in no particular order.

    Other files are skipped: the extra files of a file browser or a network file system do not make
    a mask invalid. Raises OSError when a directory cannot be listed.
    """
    pending: list[str] = [os.fspath(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.isdigit() or entry.name in METADATA_FILES:
                    yield entry


def stat_mask(path: Path) -> tuple[int, int] | None:
    """Return (file count, total bytes) of the zarr files of a mask, None if it does not exist."""
    file_count = total_bytes = 0
    try:
        if is_zip(path):
            return 1, path.stat().st_size
        for entry in zarr_files(path):
            file_count += 1
            total_bytes += entry.stat().st_size
    except OSError:
        return None
    return file_count, total_bytes


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return the attribute ``samcourier`` of a mask, None when absent or unreadable."""
    try:
        if is_zip(path):
            name, content = read_entry(path, ATTRIBUTES_FILES)
        else:
            root = _root_attributes(path)
            name, content = root.name, root.read_bytes()
        attributes = json.loads(content)
        if name == "zarr.json":
            attributes = attributes["attributes"]
        provenance = attributes["samcourier"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return provenance if isinstance(provenance, dict) else None


def is_complete(path: Path) -> bool:
    """Return True if the mask has the recorded number of files, total size and SHA-256."""
    return provenance_if_complete(path) is not None


def provenance_if_complete(path: Path) -> dict[str, Any] | None:
    """Return the provenance of a mask if it :func:`is_complete`, else None."""
    if is_zip(path):
        return (read_provenance(path) or {}) if is_zip_whole(path) else None
    recorded = read_provenance(path)
    if recorded is None:
        return None
    if stat_mask(path) != (recorded.get("file_count"), recorded.get("total_bytes")):
        return None
    try:
        is_same = content_sha256(path) == recorded.get("content_sha256")
    except OSError:
        return None
    return recorded if is_same else None


def content_sha256(store: Path) -> str:
    """Return the digest of a mask's store, see :class:`samcourier.masks.omezarr.MaskFacts`."""
    digest = hashlib.sha256()
    root = _root_attributes(store).name
    # There are many masks with many files: strings are several times as fast as paths.
    prefix_length = len(os.path.join(store, ""))
    names = [entry.path[prefix_length:] for entry in zarr_files(store)]
    for name in sorted(names, key=lambda name: name.split(os.sep)):
        with open(os.path.join(store, name), "rb") as stream:
            content = stream.read()
        if name == root:
            content = _RECORDED_DIGEST.sub(rb"\g<1>" + NO_DIGEST.encode() + b'"', content)
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _root_attributes(store: Path) -> Path:
    for name in ATTRIBUTES_FILES:
        if (store / name).is_file():
            return store / name
    raise FileNotFoundError(errno.ENOENT, "no root attributes", str(store))


OmeZarrVersion = Literal["0.4", "0.5"]
