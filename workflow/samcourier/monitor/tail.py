"""Read the image logs and connection journals of a run repeatedly, each time only what changed."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..files.strict_json import parse_json
from ..results.image_log import Attempt, ImageLog, read_image_log
from ..results.timestamps import parse_time

#: Number of the last transport changes that are kept, more than any screen shows.
MAX_CHANGES = 100
#: Longer texts from a file are cut, since a damaged file may contain anything.
_MAX_TEXT_CHARACTERS = 1000
#: Every file is checked only this often, since that takes long on a network file system.
CHECK_ALL_EVERY_S = 5.0


@dataclass(frozen=True)
class ProcessedImage:
    """An image that this run has processed: time, outcome, and traffic by transport."""

    image: str
    moment_unix_s: float
    is_computed: bool
    failure: Failure | None
    traffic: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Rates:
    """The last measured bytes per second, and the time of the measurement."""

    moment_unix_s: float = 0.0
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None


@dataclass(frozen=True)
class TransportChange:
    """A run switched to a transport or stopped using one; ``reason`` says why."""

    moment_unix_s: float
    batch: str
    what: str
    reason: str


@dataclass(frozen=True)
class LinkState:
    """The last recorded state of one batch's connection to one replica of the service."""

    state: str
    in_flight: int
    heard_unix_s: float | None


@dataclass
class Health:
    """The health of one transport over all batches, from the journals."""

    moment_unix_s: float = 0.0
    round_trip_s: float | None = None
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    reconnects: int | None = None


@dataclass(frozen=True)
class ServiceState:
    """What one replica of the service last reported; None for what it did not.

    ``device_busy`` is a share from 0 to 1, ``pipeline_depth`` the number of images that keep every
    stage of the service at work.
    """

    replica: str
    moment_unix_s: float
    device_busy: float | None
    images_per_s: float | None
    pipeline_depth: int | None


def mtimes_ns(directory: Path, suffix: str) -> dict[str, int]:
    """Return the modification time in ns of each file with ``suffix``, {} without a folder."""
    return {name: found.st_mtime_ns for name, found in _stats(directory, suffix)}


def _stats(directory: Path, suffix: str) -> Iterator[tuple[str, os.stat_result]]:
    for entry in _entries(directory, suffix):
        with suppress(FileNotFoundError):
            yield entry.name, entry.stat()


def _entries(directory: Path, suffix: str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        yield from (entry for entry in entries if entry.name.endswith(suffix))


class ImageLogs:
    """The image logs that were written, or confirmed as valid, since ``since_unix_s``."""

    def __init__(self, directory: Path, since_unix_s: float) -> None:
        self._directory = directory
        self._since_unix_s = since_unix_s
        self._checked_all_unix_s = -math.inf
        #: (inode, mtime in ns, bytes) of every readable log, including those of earlier runs.
        self._known: dict[str, tuple[int, int, int]] = {}
        #: The images that this run processed, by the name of their log.
        self.images: dict[str, ProcessedImage] = {}
        #: Counts by (transport, "calls" | "failures" | "bytes_up" | "bytes_down").
        self.traffic: Counter[tuple[str, str]] = Counter()
        self.rates: dict[str, Rates] = {}

    def refresh(self, now_unix_s: float) -> None:
        """Read the logs that are new or changed, and drop those that were deleted.

        Logs are written to a temporary file and renamed, so a new inode shows a change without
        reading the file's status. A renewed time, or a file copied over the log, is noticed within
        :data:`CHECK_ALL_EVERY_S`.
        """
        checks_all = abs(now_unix_s - self._checked_all_unix_s) >= CHECK_ALL_EVERY_S
        if checks_all:
            self._checked_all_unix_s = now_unix_s
        names = set()
        for entry in _entries(self._directory, ".json"):
            names.add(entry.name)
            known = self._known.get(entry.name)
            if known is None or checks_all or known[0] != entry.inode():
                self._check(entry, known)
        for name in self._known.keys() - names:
            self._forget(name)

    def _check(self, entry: os.DirEntry[str], known: tuple[int, int, int] | None) -> None:
        try:
            found = entry.stat()
        except FileNotFoundError:
            return
        stamp = (entry.inode(), found.st_mtime_ns, found.st_size)
        if stamp == known:
            return
        self._forget(entry.name)
        log = read_image_log(self._directory / entry.name)
        if log is not None:
            self._known[entry.name] = stamp
            self._add(entry.name, log, found.st_mtime)

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        old = self.images.pop(name, None)
        if old is not None:
            self.traffic.subtract(old.traffic)

    def _add(self, name: str, log: ImageLog, modified_unix_s: float) -> None:
        finished_unix_s = parse_time(log.finished_at).timestamp()
        is_new = finished_unix_s >= self._since_unix_s
        moment_unix_s = finished_unix_s if is_new else modified_unix_s
        if moment_unix_s < self._since_unix_s:
            return
        traffic: Counter[tuple[str, str]] = Counter()
        # A log that is still valid lists the calls of an earlier run.
        for attempt in log.attempts if is_new else ():
            traffic[attempt.transport, "calls"] += 1
            traffic[attempt.transport, "failures"] += attempt.outcome == "failed"
            traffic[attempt.transport, "bytes_up"] += attempt.bytes.up
            traffic[attempt.transport, "bytes_down"] += attempt.bytes.down
            self._update_rates(attempt)
        failure = log.failure or Failure("unknown", "unknown", "the log gives no reason")
        self.images[name] = ProcessedImage(
            log.image,
            moment_unix_s,
            is_computed=is_new and not log.reused,
            failure=failure if log.status == "failed" else None,
            traffic=traffic,
        )
        self.traffic.update(traffic)

    def _update_rates(self, attempt: Attempt) -> None:
        moment_unix_s = parse_time(attempt.started_at).timestamp()
        known = self.rates.get(attempt.transport, Rates())
        if attempt.outcome == "ok" and known.moment_unix_s <= moment_unix_s:
            self.rates[attempt.transport] = Rates(
                moment_unix_s,
                _rate(attempt.bytes.up, attempt.seconds.send),
                _rate(attempt.bytes.down, attempt.seconds.receive),
            )


class Journals:
    """The events of the connection journals since ``since_unix_s``; each line is read once."""

    def __init__(self, directory: Path, since_unix_s: float) -> None:
        self._directory = directory
        self._since_unix_s = since_unix_s
        self._reset()

    def _reset(self) -> None:
        self._offsets: dict[str, int] = {}
        self._reconnects: dict[tuple[str, str, str | None], int] = {}
        #: By batch and transport, then by replica.
        self.links: dict[tuple[str, str], dict[str | None, LinkState]] = {}
        self.health: dict[str, Health] = {}
        #: By the name of the replica, "" for a service with one.
        self.services: dict[str, ServiceState] = {}
        self.changes: list[TransportChange] = []
        self.last_unix_s = 0.0

    def refresh(self) -> None:
        """Read the appended lines; an incomplete line is read when it is complete."""
        sizes = {name: found.st_size for name, found in _stats(self._directory, ".jsonl")}
        # Journals only grow: a shorter one is a new file.
        if any(sizes.get(name, -1) < at for name, at in self._offsets.items()):
            self._reset()
        for name, size in sizes.items():
            if size > self._offsets.get(name, 0):
                self._read(name)
        self.changes = nlargest(MAX_CHANGES, self.changes, key=lambda each: each.moment_unix_s)

    def _read(self, name: str) -> None:
        offset = self._offsets.get(name, 0)
        try:
            with (self._directory / name).open("rb") as stream:
                stream.seek(offset)
                content = stream.read()
        except FileNotFoundError:
            return
        complete_bytes = content.rfind(b"\n") + 1
        self._offsets[name] = offset + complete_bytes
        for line in content[:complete_bytes].splitlines():
            event = parse_json(line)
            if isinstance(event, dict):
                self._add(name.removesuffix(".jsonl"), event)

    def _add(self, batch: str, event: dict[str, Any]) -> None:
        try:
            moment_unix_s = parse_time(event["at"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return
        if moment_unix_s < self._since_unix_s:
            return
        self.last_unix_s = max(self.last_unix_s, moment_unix_s)
        transport = _text(event, "transport")
        match event.get("event"):
            case "switch":
                names = (_text(event, "from_transport"), _text(event, "to_transport"))
                what = " → ".join(name for name in names if name)
                self._add_change(moment_unix_s, batch, what, _text(event, "reason"))
            case "left":
                self._set_link(batch, transport, None, LinkState("left", 0, None))
                self._add_change(
                    moment_unix_s, batch, f"stopped using {transport}", _text(event, "error")
                )
            case "open":
                self._set_link(batch, transport, None, LinkState("open", 0, None))
            case "health":
                self._add_health(batch, transport, moment_unix_s, event)
                self._add_service(moment_unix_s, event)

    def _add_service(self, moment_unix_s: float, event: dict[str, Any]) -> None:
        replica, depth = _text(event, "replica"), _number(event, "pipeline_depth")
        last = self.services.get(replica)
        if depth is None or not math.isfinite(depth):
            return
        if last is not None and last.moment_unix_s > moment_unix_s:
            return
        busy, images_per_s = _number(event, "device_busy"), _number(event, "images_per_s")
        self.services[replica] = ServiceState(
            replica, moment_unix_s, busy, images_per_s, int(depth)
        )

    def _add_change(self, moment_unix_s: float, batch: str, what: str, reason: str) -> None:
        self.changes.append(TransportChange(moment_unix_s, batch, what, reason))

    def _set_link(self, batch: str, transport: str, replica: str | None, state: LinkState) -> None:
        links = self.links.setdefault((batch, transport), {})
        # An event without a replica concerns all of them.
        if replica is None:
            links.clear()
        else:
            links.pop(None, None)
        links[replica] = state

    def _add_health(
        self, batch: str, transport: str, moment_unix_s: float, event: dict[str, Any]
    ) -> None:
        replica = _text(event, "replica") or None
        heard_s = _number(event, "heard_s")
        heard_unix_s = None if heard_s is None else moment_unix_s - heard_s
        in_flight = int(_number(event, "in_flight") or 0)
        state = LinkState(_text(event, "state"), in_flight, heard_unix_s)
        self._set_link(batch, transport, replica, state)
        health = self.health.setdefault(transport, Health())
        current = int(_number(event, "reconnects") or 0)
        # A batch that runs again appends to its journal and counts reconnects from zero.
        previous = self._reconnects.get((batch, transport, replica), 0)
        more = current - previous if current >= previous else current
        self._reconnects[batch, transport, replica] = current
        health.reconnects = (health.reconnects or 0) + more
        if moment_unix_s >= health.moment_unix_s:
            health.moment_unix_s = moment_unix_s
            for name in ("round_trip_s", "up_bytes_per_s", "down_bytes_per_s"):
                value = _number(event, name)
                if value is not None:
                    setattr(health, name, value)


def _rate(size_bytes: int, seconds: float | None) -> float | None:
    return size_bytes / seconds if seconds and size_bytes else None


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    return value[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""


def _number(event: dict[str, Any], name: str) -> float | None:
    value = event.get(name)
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None
