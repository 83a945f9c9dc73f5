"""Write files atomically: complete or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_or_absent(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a temporary path, which is renamed to ``path`` when the block succeeds.

    The temporary file of a killed writer is overwritten. Concurrent writers must pass different
    names as ``writer``. The file is not synced: after a power failure it may be damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}{writer and '.'}{writer}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader finds the old file or the new one, never a part."""
    write_atomically(path, [text])


def write_atomically(path: Path, parts: Iterable[str]) -> None:
    """Write ``parts`` one after another, like :func:`write_atomic`, for large texts."""
    with (
        complete_or_absent(path, uuid.uuid4().hex) as part,
        part.open("w", encoding="utf-8", newline="") as stream,
    ):
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` as :func:`write_atomic` does, unless the file already has it."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_atomic(path, text)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
