"""A mask in one file: the zip of its OME-Zarr folder, as NGFF's RFC-9 specifies.

Entries are stored without further compression, metadata before chunks; the root of the zip is the
root of the folder. The comment of the zip is JSON: ``ome`` of RFC-9 (for 0.5 only), and
``samcourier`` with the size and SHA-256 of the whole file, computed with 64 zeros as the digest.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..files.zarr_names import METADATA_FILES

NO_DIGEST = "0" * 64
_COMMENT_BYTES = 256


def write_zip(path: Path, folder: Path, files: Iterable[Path], ome_zarr: str) -> None:
    """Write ``files`` of ``folder`` to the zip ``path``; equal files give equal bytes."""
    names = [file.relative_to(folder).as_posix() for file in files]
    names.sort(key=lambda name: (not name.endswith(METADATA_FILES), name.count("/"), name))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        archive.comment = _comment(0, NO_DIGEST, ome_zarr)
    comment = _comment(path.stat().st_size, NO_DIGEST, ome_zarr)
    digest = _digest(path, comment)
    with path.open("r+b") as stream:
        stream.seek(-_COMMENT_BYTES, 2)
        stream.write(comment.replace(NO_DIGEST.encode(), digest.encode()))


def is_zip_whole(path: Path) -> bool:
    """Return True if the zip has the recorded size and SHA-256."""
    try:
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
        facts = json.loads(comment)["samcourier"]
        if len(comment) != _COMMENT_BYTES or facts["total_bytes"] != path.stat().st_size:
            return False
        digest: str = facts["sha256"]
        return _digest(path, comment.replace(digest.encode(), NO_DIGEST.encode())) == digest
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError):
        return False


def read_entry(path: Path, names: Iterable[str]) -> tuple[str, bytes]:
    """Return the first of ``names`` that exists in the zip, and its bytes. Raises OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            for name in names:
                if name in held:
                    return name, archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise OSError(f"{path}: damaged zip ({error})") from error
    raise FileNotFoundError(f"{path}: no root attributes")


def _comment(total_bytes: int, digest: str, ome_zarr: str) -> bytes:
    layout = {"version": ome_zarr, "zipFile": {"centralDirectory": {"jsonFirst": True}}}
    comment: dict[str, object] = {"ome": layout} if ome_zarr == "0.5" else {}
    comment["samcourier"] = {"total_bytes": total_bytes, "sha256": digest}
    # JSON allows trailing spaces; a fixed length lets write_zip overwrite the comment in place.
    return json.dumps(comment).encode("ascii").ljust(_COMMENT_BYTES)


def _digest(path: Path, comment: bytes) -> str:
    digest = hashlib.sha256()
    remaining = path.stat().st_size - len(comment)
    with path.open("rb") as stream:
        while block := stream.read(min(1 << 20, remaining)):
            digest.update(block)
            remaining -= len(block)
    digest.update(comment)
    return digest.hexdigest()
