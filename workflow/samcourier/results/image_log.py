"""What a run leaves behind as proof: image logs, batch manifests, connection journals.

The dataclasses are the JSON files: a field's name is its key. ``schemas/image-log.schema.json``
describes the image log with its units.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import Failure, storage_errors
from ..files.records import read_record, write_record
from .timestamps import parse_time

IMAGE_LOG_SCHEMA = "samcourier/image-log/7"

Method = Literal["segment_all", "encode_image"]

#: How the note of a log begins when a whole mask of the same key was found: no call was made.
NOTE_REUSED = "mask reused"


@dataclass(frozen=True)
class CallSeconds:
    """Seconds of one call; a part the transport cannot tell apart, or never reached, is None."""

    total: float
    send: float | None = None
    queue: float | None = None
    service: float | None = None
    receive: float | None = None


@dataclass(frozen=True)
class CallBytes:
    """Payload bytes of one call: sent to the service, received from it."""

    up: int
    down: int


@dataclass(frozen=True)
class Attempt:
    """One call for one image: over which transport, why that one, and how it went.

    ``method`` is what was called: a mask, or an embedding that goes before it.
    ``replica`` is the copy of a service that runs several times, ``plane`` the zero-based number
    of the plane in an image of several, ``tile`` that of the tile of a plane that was cut.
    ``started_at`` is ISO 8601 in UTC. ``predicted_s`` is how long the bytes were expected to
    travel, both ways together, when the transport was chosen; None while it was not measured.
    ``travel_alone_s`` is how long they did, but for what other calls over the same transport took
    of it meanwhile, as predictions leave that out; None where the service tells no times.
    """

    transport: str
    reason: str
    started_at: str
    outcome: Literal["ok", "failed"]
    error: Failure | None
    seconds: CallSeconds
    bytes: CallBytes
    replica: str | None = None
    plane: int | None = None
    tile: int | None = None
    method: Method = "segment_all"
    predicted_s: float | None = None
    travel_alone_s: float | None = None


@dataclass(frozen=True)
class ImageSeconds:
    """Seconds of the client's own stages; a stage never reached is None.

    ``total`` runs from the start of reading to the end of writing, the calls included. The parts
    of an image of several planes, which overlap, are added up.
    """

    total: float
    read: float | None = None
    pack: float | None = None
    unpack: float | None = None
    write: float | None = None
    outputs: float | None = None


@dataclass(frozen=True)
class OutputRecord:
    """One of a run's ``outputs`` of one image, or why it was ``refused``.

    ``made_from`` is a digest of all it depends on, the mask's key among it. ``path`` is said only
    of what lies elsewhere than in the results folder.
    """

    made_from: str
    files: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    path: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class ImageLog:
    """The durable record of one image: done or failed, and how its pixels travelled.

    ``shape``, ``dtype`` and ``axes`` are those of the pixels sent, e.g. (2, 512, 512), uint16,
    CYX, in ``planes`` times ``tiles`` calls, less ``tiles_kept`` answers that a run that was cut
    off had left; None when the image could not be read. ``object_count`` is the sum over the
    planes, each with ids of its own. ``finished_at`` is ISO 8601 in UTC.
    """

    image: str
    path: str
    status: Literal["done", "failed"]
    finished_at: str
    seconds: ImageSeconds
    key: str | None = None
    pixels_sha256: str | None = None
    failure: Failure | None = None
    note: str | None = None
    object_count: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    axes: str | None = None
    planes: int = 1
    tiles: int = 1
    tiles_kept: int = 0
    mask: str | None = None
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    service: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def reused(self) -> bool:
        """Whether the mask was found whole, so that no call was needed."""
        return self.note is not None and self.note.startswith(NOTE_REUSED)


def write_image_log(path: Path, log: ImageLog) -> None:
    """Write the log in one step. Raises ValueError for NaN or infinity, TypeError for non-JSON."""
    write_record(path, IMAGE_LOG_SCHEMA, log)


def read_image_log(path: Path) -> ImageLog | None:
    """Return the log, or None when it is absent or not a whole log of this schema."""
    log = read_record(path, IMAGE_LOG_SCHEMA, ImageLog)
    return log if log is not None and _has_sound_times(log) else None


def _has_sound_times(log: ImageLog) -> bool:
    try:
        for moment in (log.finished_at, *(attempt.started_at for attempt in log.attempts)):
            parse_time(moment)
    except ValueError:
        return False
    return True


def keep_log(path: Path, log: ImageLog) -> None:
    """Write an image's log. Raises StorageFailed."""
    with storage_errors(path):
        write_image_log(path, log)


def _mark_as_seen(path: Path) -> None:
    """Renew the time of a log that still holds: whoever watches sees that the run came by."""
    with storage_errors(path):
        os.utime(path)
