"""The frozen files of a run: its settings and its sample sheet, named by their digests.

Such a file is written once and never changed, so that every job of a run reads the same settings
even if ``config.yaml`` or the sample sheet changes during the run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import InputError
from ..files.atomic import complete_or_absent
from .run_settings import RunSettings

FOLDER = Path("run")
SCHEMA = "samcourier/run-settings/1"

_DIGEST_DIGITS = 32
_POLL_S = 0.2


class _SettingsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the settings file; ``sheet`` is the name of a file in the same folder."""

    schema: str
    sheet: str
    settings: RunSettings


class FrozenRun(msgspec.Struct, frozen=True):
    """The settings of a run and the path of its sheet, as read from the disk.

    ``dataset_dir`` is the results folder, ``sheet`` the copy of the sample sheet.
    """

    settings: RunSettings
    dataset_dir: Path
    sheet: Path


class FrozenFiles(msgspec.Struct, frozen=True):
    """The two files of a run before they are written: their paths and contents."""

    settings_path: Path
    settings_content: bytes
    sheet_path: Path
    sheet_content: bytes

    def write(self) -> None:
        """Write the files that do not exist; the settings last, because they name the sheet."""
        for path, content in (
            (self.sheet_path, self.sheet_content),
            (self.settings_path, self.settings_content),
        ):
            if not path.exists():
                with complete_or_absent(path, f"{time.time_ns()}") as part:
                    part.write_bytes(content)


def freeze(settings: RunSettings, sheet: bytes, dataset_dir: Path) -> FrozenFiles:
    """Return the files that hold ``settings`` and the text of the sample sheet; writes nothing."""
    folder = dataset_dir / FOLDER
    sheet_path = folder / f"{_digest(sheet)}.tsv"
    record = _SettingsFile(SCHEMA, sheet_path.name, settings)
    content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    return FrozenFiles(folder / f"{_digest(content)}.json", content, sheet_path, sheet)


def read_frozen(path: Path, wait_s: float = 0.0) -> FrozenRun:
    """Return the run whose settings file is ``path``.

    Waits ``wait_s`` at most for a file that a network file system does not show yet. Raises
    InputError, one line, for a file that is missing or does not match the digest in its name.
    """
    content = _checked(path, wait_s)
    try:
        found = msgspec.json.decode(content, type=_SettingsFile)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}, expected the settings of a run") from None
    if found.schema != SCHEMA:
        raise InputError(f"{path}: schema {found.schema!r}, expected {SCHEMA!r}")
    sheet = path.parent / found.sheet
    _checked(sheet, wait_s)
    return FrozenRun(found.settings, path.parent.parent, sheet)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_DIGITS]


def _checked(path: Path, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """Return the content of a file that is named by its digest, waiting ``wait_s`` at most."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            content = path.read_bytes()
            break
        except OSError as error:
            if time.monotonic() >= deadline_s:
                raise InputError(
                    f"{path}: {error.strerror}, expected a file that the run wrote when it began"
                ) from None
        sleep(_POLL_S)
    if _digest(content) != path.stem:
        raise InputError(
            f"{path}: changed since the run began, expected the content with the digest in its"
            " name; delete the file and start the run again"
        )
    return content
