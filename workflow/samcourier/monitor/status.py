"""Read the state of a run from its results folder, without writing or calling a service."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Literal

from ..processes import is_running
from ..results.layout import is_held
from ..results.run_record import Kept, RunRecord, read_run_record
from ..results.timestamps import parse_time
from .tail import (
    Health,
    ImageLogs,
    Journals,
    ProcessedImage,
    Rates,
    ServiceState,
    TransportChange,
    mtimes_ns,
)

#: ``unrecorded``: there is no run.json. ``stopped``: the process ended without writing its report.
State = Literal["running", "ended", "stopped", "unrecorded"]

#: The current rate covers the last minute, or the last RECENT_IMAGES images if they took longer.
RECENT_S = 60.0
RECENT_IMAGES = 20
MAX_ERRORS = 20
#: The time of a file may be behind the clock by one tick of the kernel.
CLOCK_TICK_S = 0.05


@dataclass(frozen=True)
class TransportView:
    """One transport over all batches; None for a value that was not recorded.

    ``states`` counts the open connections of the running batches by state. ``heard_s`` is the time
    since the last message from the service over this transport.
    """

    name: str
    calls: int
    failures: int
    bytes_up: int
    bytes_down: int
    round_trip_s: float | None
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    states: tuple[tuple[str, int], ...]
    in_flight: int
    reconnects: int | None
    heard_s: float | None


@dataclass(frozen=True)
class ErrorView:
    """An image that failed; ``kind`` is the failure class of :mod:`samcourier.errors`."""

    moment_unix_s: float
    image: str
    kind: str
    message: str


@dataclass(frozen=True)
class RunView:
    """The state of a run at one moment.

    ``images`` is the number of images in its subset, None without a record of a run. ``kept``
    counts the images whose mask of an earlier run is still valid; they also count as done.
    ``elapsed_s`` is the time since the start, up to the end of an ended run; ``quiet_s`` is the
    time since the last recorded event. ``recent_per_min`` and ``overall_per_min`` are segmented
    images per minute. ``batches`` is the number of batches of the run, ``running_batches`` the ids
    of those that a process works on. ``services`` are the replicas of the service while it runs.
    """

    dataset: str
    state: State
    host: str | None
    seen_unix_s: float
    elapsed_s: float | None
    quiet_s: float | None
    images: int | None
    done: int
    kept: int
    failed: int
    recent_per_min: float | None
    overall_per_min: float | None
    batches: int | None
    batches_done: int
    running_batches: tuple[str, ...]
    transports: tuple[TransportView, ...]
    changes: tuple[TransportChange, ...]
    errors: tuple[ErrorView, ...]
    services: tuple[ServiceState, ...] = ()

    @property
    def pending(self) -> int | None:
        """Number of images that are neither done nor failed, None if it is unknown."""
        return None if self.images is None else max(self.images - self.done - self.failed, 0)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the end at the current rate, None if it cannot be estimated."""
        per_min = self.recent_per_min or self.overall_per_min
        if self.state != "running" or self.pending is None or not per_min:
            return None
        return self.pending / per_min * 60


class Monitor:
    """Reads the state of a results folder repeatedly; each read covers only new files and lines.

    ``clock_unix_s`` returns the current time in Unix seconds. Raises FileNotFoundError if
    ``dataset_dir`` does not exist.
    """

    def __init__(self, dataset_dir: Path, clock_unix_s: Callable[[], float] = time.time) -> None:
        if not dataset_dir.is_dir():
            raise FileNotFoundError(f"{dataset_dir}: no such folder of results")
        self._dataset_dir = dataset_dir
        self._clock_unix_s = clock_unix_s
        self._begin(read_run_record(dataset_dir))

    def _begin(self, record: RunRecord | None) -> None:
        self._record = record
        self._since_unix_s = parse_time(record.started_at).timestamp() if record else 0.0
        self._files_since_unix_s = self._since_unix_s - CLOCK_TICK_S
        self._is_here = record is None or record.host == platform.node()
        logs_dir = self._dataset_dir / "logs"
        self._logs = ImageLogs(logs_dir, self._since_unix_s)
        self._journals = Journals(logs_dir / "connection", self._since_unix_s)

    def read(self) -> RunView:
        """Return the current state of the run."""
        now_unix_s = self._clock_unix_s()
        record = read_run_record(self._dataset_dir)
        if record != self._record:
            self._begin(record)
        # This check precedes the reading of the logs, so that all logs of an ended process count.
        is_alive = record is not None and self._is_here and is_running(record.process)
        reported_unix_s = self._reported_unix_s()
        self._logs.refresh(now_unix_s)
        self._journals.refresh()
        processed = self._logs.images.values()
        kept = record.kept if record else Kept()
        images = record.images if record else None
        is_finished = images is not None and len(processed) + kept.done + kept.failed >= images
        state = self._state(is_alive, reported_unix_s, is_finished)
        began_unix_s = self._since_unix_s if record else None
        last_unix_s = max((each.moment_unix_s for each in processed), default=0.0)
        last_unix_s = max(last_unix_s, self._journals.last_unix_s)
        end_unix_s = now_unix_s if state == "running" else max(last_unix_s, reported_unix_s)
        moments = sorted(each.moment_unix_s for each in processed if each.is_computed)
        recent = recent_per_min(moments, now_unix_s) if state == "running" else None
        failed = sum(each.failure is not None for each in processed)
        done_count, running = self._batches()
        return RunView(
            dataset=self._dataset_dir.resolve().name,
            state=state,
            host=record.host if record else None,
            seen_unix_s=now_unix_s,
            elapsed_s=None if began_unix_s is None else max(end_unix_s - began_unix_s, 0.0),
            quiet_s=max(now_unix_s - last_unix_s, 0.0) if last_unix_s else None,
            images=images,
            done=kept.done + len(processed) - failed,
            kept=kept.done + sum(not each.is_computed and not each.failure for each in processed),
            failed=kept.failed + failed,
            recent_per_min=recent,
            overall_per_min=per_min(len(moments), began_unix_s, end_unix_s),
            batches=record.batches if record else None,
            batches_done=done_count + kept.batches,
            running_batches=running,
            transports=self._transports(running, now_unix_s),
            changes=tuple(self._journals.changes),
            errors=_errors(processed),
            services=self._services() if state == "running" else (),
        )

    def _reported_unix_s(self) -> float:
        """Return the time at which this run wrote its report, 0 if it has not yet."""
        written = [0.0]
        for name in ("report.tsv", "complete.json"):
            try:
                written.append((self._dataset_dir / name).stat().st_mtime)
            except OSError:
                continue
        return max(written) if max(written) >= self._files_since_unix_s else 0.0

    def _state(self, is_alive: bool, reported_unix_s: float, is_finished: bool) -> State:
        if self._record is None:
            return "unrecorded"
        # A user can also make a report while the run continues.
        if reported_unix_s and (is_finished or not is_alive):
            return "ended"
        # A process of another host cannot be checked.
        return "running" if is_alive or not self._is_here else "stopped"

    def _batches(self) -> tuple[int, tuple[str, ...]]:
        """Return the number of manifests of this run, and the ids of the running batches."""
        directory = self._dataset_dir / "batches"
        since_ns = self._files_since_unix_s * 1e9
        manifest_ns = {
            name.removesuffix(".json"): mtime_ns
            for name, mtime_ns in mtimes_ns(directory, ".json").items()
            if not name.startswith(".") and mtime_ns >= since_ns
        }
        running = []
        for name, mtime_ns in mtimes_ns(directory, ".lock").items():
            batch_id = name.removeprefix(".").removesuffix(".lock")
            if mtime_ns < since_ns or manifest_ns.get(batch_id, 0) >= mtime_ns:
                continue
            # Locks of another host cannot be checked: a batch without a newer manifest is running.
            if not self._is_here or is_held(directory / name):
                running.append(batch_id)
        return len(manifest_ns), tuple(sorted(running))

    def _services(self) -> tuple[ServiceState, ...]:
        return tuple(each for _, each in sorted(self._journals.services.items()))

    def _transports(self, running: Sequence[str], now_unix_s: float) -> tuple[TransportView, ...]:
        traffic, journals = self._logs.traffic, self._journals
        names = {name for name, _ in traffic} | journals.health.keys()
        names |= {transport for _, transport in journals.links}
        views = [self._transport(name, running, now_unix_s) for name in names if name]
        return tuple(sorted(views, key=lambda view: (-view.calls, view.name)))

    def _transport(self, name: str, running: Sequence[str], now_unix_s: float) -> TransportView:
        links = [
            link
            for batch_id in running
            for link in self._journals.links.get((batch_id, name), {}).values()
        ]
        heard_unix_s = [link.heard_unix_s for link in links if link.heard_unix_s is not None]
        health = self._journals.health.get(name, Health())
        rates = self._logs.rates.get(name, Rates())
        traffic = self._logs.traffic
        return TransportView(
            name=name,
            calls=traffic[name, "calls"],
            failures=traffic[name, "failures"],
            bytes_up=traffic[name, "bytes_up"],
            bytes_down=traffic[name, "bytes_down"],
            round_trip_s=health.round_trip_s,
            up_bytes_per_s=health.up_bytes_per_s or rates.up_bytes_per_s,
            down_bytes_per_s=health.down_bytes_per_s or rates.down_bytes_per_s,
            states=tuple(sorted(Counter(link.state for link in links).items())),
            in_flight=sum(link.in_flight for link in links),
            reconnects=health.reconnects,
            heard_s=max(now_unix_s - max(heard_unix_s), 0.0) if heard_unix_s else None,
        )


def recent_per_min(moments_unix_s: Sequence[float], now_unix_s: float) -> float | None:
    """Return the images per minute over the last time, None if it cannot be computed.

    ``moments_unix_s`` has the time at which each image was finished, in ascending order.
    """
    images = max(sum(moment > now_unix_s - RECENT_S for moment in moments_unix_s), RECENT_IMAGES)
    if images < len(moments_unix_s):
        return per_min(images, moments_unix_s[-images - 1], now_unix_s)
    # The first image is left out, since it waited for the start of the service.
    return (
        per_min(len(moments_unix_s) - 1, moments_unix_s[0], now_unix_s) if moments_unix_s else None
    )


def per_min(images: int, began_unix_s: float | None, ended_unix_s: float) -> float | None:
    """Return images per minute over a period, None if it is unknown or no image was done."""
    if began_unix_s is None or ended_unix_s <= began_unix_s or not images:
        return None
    return images / (ended_unix_s - began_unix_s) * 60


def _errors(processed: Iterable[ProcessedImage]) -> tuple[ErrorView, ...]:
    errors = [
        ErrorView(each.moment_unix_s, each.image, each.failure.kind, each.failure.message)
        for each in processed
        if each.failure is not None
    ]
    return tuple(nlargest(MAX_ERRORS, errors, key=lambda error: error.moment_unix_s))
