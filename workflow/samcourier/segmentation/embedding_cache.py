"""Keep image embeddings on disk: a second run with other parameters skips the encoder.

Each plane has one file, complete or absent, with the checksummed answer of ``encode_image``. The
folder has a size limit. Once it is reached, new embeddings are not kept and old ones stay: a run
visits all its images in turn, so deleting the least recently used embedding would delete each one
just before its use.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files.atomic import complete_or_absent
from ..files.checksummed import checksummed, read_checksummed
from ..results.service_description import ServiceDescription

SUFFIX = ".embedding"

_TOTAL_NAME = "bytes"

#: Age of the recorded total after which the files are counted again: users delete files, and a
#: killed job leaves a partial one. Counting 100 000 files on a network disk takes half a minute.
_COUNT_AGAIN_AFTER_S = 600.0


class EmbeddingStore:
    """The embeddings in ``folder``, at most ``max_bytes`` of them; several jobs may share it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        #: Embeddings of this job that were not kept, and why the last one was not.
        self.not_kept_count = 0
        self.not_kept_because = ""

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the embedding kept under ``key``, None if it is absent or damaged."""
        embedding: dict[str, Any] | None = read_checksummed(self._path(key))
        return embedding

    def keep(self, key: str, embedding: Mapping[str, Any]) -> bool:
        """Write the embedding, with packed arrays, if the limit allows; return whether it did.

        A write error is not raised, since the image does not fail by it: it is counted instead.
        """
        content = checksummed(dict(embedding))
        try:
            with self._locked():
                is_kept = self._write(self._path(key), content)
        except OSError as error:
            self._count_not_kept(f"{error.strerror or error}")
            return False
        if not is_kept:
            self._count_not_kept(f"its limit of {self.max_bytes / 1e9:g} GB is reached")
        return is_kept

    def summary(self) -> str | None:
        """Return one line on the embeddings that were not kept, None if all were."""
        if not self.not_kept_count:
            return None
        return f"{self.folder}: {self.not_kept_count} embeddings not kept, {self.not_kept_because}"

    def _count_not_kept(self, reason: str) -> None:
        self.not_kept_count += 1
        self.not_kept_because = reason

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _write(self, path: Path, content: bytes) -> bool:
        total_bytes = self._total() - (path.stat().st_size if path.exists() else 0) + len(content)
        if total_bytes > self.max_bytes:
            return False
        with complete_or_absent(path) as part:
            part.write_bytes(content)
        (self.folder / _TOTAL_NAME).write_text(str(total_bytes))
        return True

    def _total(self) -> int:
        """Return the bytes kept by all jobs: the recorded total, or a new count of the files."""
        record = self.folder / _TOTAL_NAME
        try:
            if time.time() - record.stat().st_mtime < _COUNT_AGAIN_AFTER_S:
                return int(record.read_text())
        except (OSError, ValueError):
            pass
        total_bytes = 0
        for entry in os.scandir(self.folder):
            # The holder of the lock is the only writer: a partial file is from a killed job.
            if entry.name.endswith(".part"):
                os.unlink(entry)
            elif entry.name.endswith(SUFFIX):
                total_bytes += entry.stat().st_size
        record.write_text(str(total_bytes))
        return total_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def forecast_embeddings(store: EmbeddingStore, description: ServiceDescription) -> str:
    """Return one line on how many embeddings the store can keep."""
    limit = f"up to {store.max_bytes / 1e9:g} GB in {store.folder}"
    each_bytes = description.embedding_bytes
    if each_bytes is None:
        return f"embeddings are kept, {limit}"
    return (
        f"embeddings are kept, at most {each_bytes / 1e6:.1f} MB for each plane, {limit}:"
        f" {store.max_bytes // each_bytes:,} planes"
    )
