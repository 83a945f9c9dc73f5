"""What a run leaves behind as proof: image logs, batch manifests, connection journals.

The dataclasses are the JSON files: a field's name is its key. ``schemas/image-log.schema.json``
describes the image log with its units.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from .errors import CourierError
from .files.records import decode, read_json, read_record, write_json, write_record

IMAGE_LOG_SCHEMA = "samcourier/image-log/7"

Method = Literal["segment_all", "encode_image"]

#: How the note of a log begins when a whole mask of the same key was found: no call was made.
NOTE_REUSED = "mask reused"


@dataclass(frozen=True)
class Failure:
    """Why something failed: the class of :mod:`samcourier.errors`, the error's name and text."""

    kind: str
    name: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Return ``error`` as written to the logs; an error without a kind is ``unexpected``."""
        if isinstance(error, CourierError):
            return cls(error.kind, error.name, str(error))
        return cls("unexpected", type(error).__name__, str(error) or type(error).__name__)


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

    transport: Literal["websocket", "http", "webrtc", "fake"]
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


@dataclass(frozen=True)
class ManifestEntry:
    """What a batch says of one image; ``failure_kind`` as in :mod:`samcourier.errors`."""

    status: Literal["done", "failed", "not_asked"]
    key: str | None = None
    mask_files: int | None = None
    mask_bytes: int | None = None
    object_count: int | None = None
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    failure_kind: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The one declared output of a batch: the state of each of its images, by image id.

    ``made_for`` is the workflow's digest of what shaped its masks; None of one made without it.
    """

    batch: str
    images: dict[str, ManifestEntry]
    made_for: str | None = None


def utc_now() -> str:
    """Return the present moment as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def parse_time(text: str) -> datetime:
    """Return an ISO 8601 time as UTC; one without an offset is taken to be UTC already.

    Raises ValueError when ``text`` is not such a time.
    """
    moment = datetime.fromisoformat(text)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text}: {error}") from None


def write_image_log(path: Path, log: ImageLog) -> None:
    """Write the log in one step. Raises ValueError for NaN or infinity, TypeError for non-JSON."""
    write_record(path, IMAGE_LOG_SCHEMA, log)


def read_image_log(path: Path) -> ImageLog | None:
    """Return the log, or None when it is absent or not a whole log of this schema."""
    log = read_record(path, IMAGE_LOG_SCHEMA, ImageLog)
    return log if log is not None and _has_sound_times(log) else None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest in one step. Raises as :func:`write_image_log`."""
    write_json(path, asdict(manifest))


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest, or None when it is absent or damaged."""
    return decode(Manifest, read_json(path))


class ConnectionJournal:
    """What the connection manager saw during one batch: JSON lines, on disk as they happen.

    A journal that exists is continued, so a batch that is run again keeps its history.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what a full disk did not take must not come up again when it is closed.
        self._stream = path.open("a+b", buffering=0)
        #: A killed process leaves half a line, and so does a disk that takes only a part of one.
        self._is_line_torn = self._ends_torn()

    def record(self, event: str, **details: Any) -> None:
        """Append one line: the time, the event's name and its details (plain JSON values).

        Raises ValueError for NaN or infinity, TypeError for anything that is not JSON.
        """
        text = json.dumps({"at": utc_now(), "event": event} | details, allow_nan=False)
        # This event must not be glued to half of another one: both would be lost.
        line = (f"\n{text}\n" if self._is_line_torn else f"{text}\n").encode()
        # Of a full disk the image tells that cannot be written, and the connection closes in peace.
        with contextlib.suppress(OSError):
            if written := self._stream.write(line):
                self._is_line_torn = written < len(line)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ends_torn(self) -> bool:
        if self._stream.seek(0, os.SEEK_END) == 0:
            return False
        self._stream.seek(-1, os.SEEK_END)
        return self._stream.read(1) != b"\n"


def _has_sound_times(log: ImageLog) -> bool:
    try:
        for moment in (log.finished_at, *(attempt.started_at for attempt in log.attempts)):
            parse_time(moment)
    except ValueError:
        return False
    return True
