from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console

from samcourier.cli import main
from samcourier.errors import InputError
from samcourier.failure import Failure
from samcourier.files.strict_json import write_json
from samcourier.formatting import duration
from samcourier.monitor.render import plain_line, render
from samcourier.monitor.status import Monitor, RunView, TransportView, recent_per_min
from samcourier.monitor.tail import CHECK_ALL_EVERY_S
from samcourier.processes import process_identity
from samcourier.results.image_log import (
    NOTE_REUSED,
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    write_image_log,
)
from samcourier.results.manifest import Manifest, ManifestEntry, write_manifest
from samcourier.results.run_record import Kept, batching_digest, read_run_record, start_record
from samcourier.samples.sheet import Batch, ImageRow

BEGAN = datetime(2026, 3, 1, 10, tzinfo=UTC)
HERE = platform.node()
ME = process_identity(os.getpid())
ENDED_PROCESS = "1-1"
HOSTILE = "[bold]x[/bold]\x1b]0;owned\x07\u202e\ud800\r\nend"


def at(second: float) -> str:
    return (BEGAN + timedelta(seconds=second)).isoformat(timespec="milliseconds")


def unix_s(second: float) -> float:
    return BEGAN.timestamp() + second


class Run:
    """A results folder in which a test writes files with times in seconds since the start."""

    def __init__(self, dataset_dir: Path) -> None:
        self.dataset_dir = dataset_dir
        self.now_s = 60.0
        dataset_dir.mkdir(parents=True)

    def record(self, **changes: Any) -> None:
        record = {
            "schema": "samcourier/run/2",
            "started_at": at(0),
            "host": HERE,
            "process": ME,
            "images": 10,
            "batches": 2,
            "kept": {"batches": 0, "done": 0, "failed": 0},
            "cut": "",
        }
        write_json(self.dataset_dir / "run.json", record | changes)

    def file(self, name: str, second: float, content: bytes | None = b"{}") -> Path:
        """Write a file, unless ``content`` is None, and set its modification time to ``second``."""
        path = self.dataset_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
        os.utime(path, (unix_s(second), unix_s(second)))
        return path

    def log(self, image: str, second: float, **changes: Any) -> None:
        name = f"logs/{image.encode(errors='replace').hex()}.json"
        log = structs.replace(done(image, second), **changes)
        write_image_log(self.dataset_dir / name, log)
        self.file(name, second, None)

    def events(self, batch: str, *events: dict[str, Any] | str) -> None:
        path = self.dataset_dir / f"logs/connection/{batch}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            for event in events:
                stream.write(event if isinstance(event, str) else json.dumps(event) + "\n")

    def monitor(self) -> Monitor:
        return Monitor(self.dataset_dir, lambda: unix_s(self.now_s))

    def read(self) -> RunView:
        return self.monitor().read()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "results" / "demo")


def attempt(transport: Any, second: float, *, ok: bool = True) -> Attempt:
    return Attempt(
        transport=transport,
        reason="",
        started_at=at(second),
        outcome="ok" if ok else "failed",
        error=None if ok else Failure("transport", "TransportFailed", "channel closed"),
        seconds=CallSeconds(total=1.0, send=0.5, receive=0.25) if ok else CallSeconds(1.0),
        bytes=CallBytes(up=1000, down=100 if ok else 0),
    )


def done(image: str, second: float) -> ImageLog:
    return ImageLog(
        image=image,
        path="x.tif",
        status="done",
        finished_at=at(second),
        seconds=ImageSeconds(total=1.0),
        attempts=(attempt("websocket", second - 1),),
    )


def failed(kind: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "failure": Failure(kind, "Name", message), "attempts": ()}


def health(second: float, **changes: Any) -> dict[str, Any]:
    event = {
        "at": at(second),
        "event": "health",
        "transport": "webrtc",
        "replica": None,
        "state": "connected",
        "heard_s": 1.0,
        "round_trip_s": 0.02,
        "up_bytes_per_s": 2e7,
        "down_bytes_per_s": 1e7,
        "bytes_up": 1,
        "bytes_down": 1,
        "calls": 3,
        "in_flight": 2,
        "reconnects": 1,
    }
    return event | changes


def text_of(view: RunView, width: int = 80, height_lines: int | None = None) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render(view, height_lines))
    return stream.getvalue()


# Counting images.


def done_before_this_run(run: Run) -> None:
    run.log("a", -5)


def computed_by_this_run(run: Run) -> None:
    run.log("a", 5)


def confirmed_as_valid(run: Run) -> None:
    run.log("a", -5)
    run.file(f"logs/{b'a'.hex()}.json", 5, None)


def reused_with_a_new_log(run: Run) -> None:
    run.log("a", 5, note=NOTE_REUSED, attempts=())


def failed_in_this_run(run: Run) -> None:
    run.log("a", 5, **failed("image", "torn"))


def partly_written(run: Run) -> None:
    run.file("logs/a.json", 5, b'{"schema": "samcourier/im')


def temporary_file(run: Run) -> None:
    run.file("logs/.a.json.1f.part", 5)


def batch_kept_from_an_earlier_run(run: Run) -> None:
    run.record(kept={"batches": 1, "done": 4, "failed": 1})
    run.log("a", 5)


@pytest.mark.parametrize(
    ("happened", "counts"),
    [
        (done_before_this_run, (0, 0, 0, 10)),
        (computed_by_this_run, (1, 0, 0, 9)),
        (confirmed_as_valid, (1, 1, 0, 9)),
        (reused_with_a_new_log, (1, 1, 0, 9)),
        (failed_in_this_run, (0, 0, 1, 9)),
        (partly_written, (0, 0, 0, 10)),
        (temporary_file, (0, 0, 0, 10)),
        (batch_kept_from_an_earlier_run, (5, 4, 1, 4)),
    ],
)
def test_only_images_of_this_run_are_counted(
    run: Run, happened: Callable[[Run], None], counts: tuple[int, ...]
) -> None:
    run.record()
    happened(run)
    view = run.read()
    assert (view.done, view.kept, view.failed, view.pending) == counts


def test_a_run_that_starts_while_the_monitor_runs_is_counted_from_its_start(run: Run) -> None:
    run.record(started_at=at(-100))
    run.log("a", -50)
    monitor = run.monitor()
    assert monitor.read().done == 1
    run.record()
    assert monitor.read().done == 0


def test_without_a_record_every_log_counts(run: Run) -> None:
    run.log("a", -5)
    view = run.read()
    assert (view.state, view.done, view.images, view.remaining_s) == ("unrecorded", 1, None, None)


def test_an_empty_folder_shows_zero_images(run: Run) -> None:
    assert "0 done, 0 failed" in text_of(run.read())


# Reading only new files and lines.


def test_the_next_read_has_all_changes(run: Run) -> None:
    run.record()
    monitor = run.monitor()
    counts = []
    for change in (
        lambda: run.log("a", 5, attempts=(attempt("http", 3, ok=False), attempt("http", 4))),
        lambda: run.log("a", 6, **failed("service", "no")),
        lambda: partly_written(run),
        lambda: run.log("b", 7),
        lambda: (run.dataset_dir / f"logs/{b'a'.hex()}.json").unlink(),
    ):
        change()
        view = monitor.read()
        calls = {each.name: (each.calls, each.failures) for each in view.transports}
        counts.append((view.done, view.failed, calls.get("http"), calls.get("websocket")))
    assert counts == [
        (1, 0, (2, 1), None),
        (0, 1, (0, 0), None),
        (0, 1, (0, 0), None),
        (1, 1, (0, 0), (1, 0)),
        (1, 0, (0, 0), (1, 0)),
    ]


def test_an_unchanged_log_is_not_read_again(run: Run) -> None:
    run.record()
    run.log("a", 5)
    monitor = run.monitor()
    monitor.read()
    path = run.dataset_dir / f"logs/{b'a'.hex()}.json"
    run.file(path.relative_to(run.dataset_dir).as_posix(), 5, b"x" * path.stat().st_size)
    run.now_s += CHECK_ALL_EVERY_S
    assert monitor.read().done == 1


def test_a_log_that_the_run_confirmed_as_valid_counts_after_the_next_full_check(run: Run) -> None:
    run.record()
    run.log("a", -5)
    monitor = run.monitor()
    assert monitor.read().done == 0
    run.file(f"logs/{b'a'.hex()}.json", 5, None)
    run.now_s += CHECK_ALL_EVERY_S
    assert monitor.read().done == 1


def test_an_incomplete_line_is_read_when_it_is_complete(run: Run) -> None:
    run.record()
    monitor = run.monitor()
    line = json.dumps(switch(5, "faster")) + "\n"
    run.events("0001", switch(4, "first"), line[:30])
    assert [each.reason for each in monitor.read().changes] == ["first"]
    run.events("0001", line[30:])
    assert [each.reason for each in monitor.read().changes] == ["faster", "first"]


def test_a_replaced_journal_is_read_from_its_beginning(run: Run) -> None:
    run.record()
    monitor = run.monitor()
    run.events("0001", switch(4, "first"), switch(5, "second"))
    monitor.read()
    (run.dataset_dir / "logs/connection/0001.jsonl").unlink()
    run.events("0001", switch(6, "third"))
    assert [each.reason for each in monitor.read().changes] == ["third"]


def test_reading_the_state_changes_no_file(finished_run: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in finished_run.rglob("*"))

    before = state()
    text_of(Monitor(finished_run / "results" / "demo").read())
    assert state() == before


# The state of the run.


@pytest.mark.parametrize(
    ("record", "report_s", "logs", "state"),
    [
        ({}, None, 1, "running"),
        ({"process": ENDED_PROCESS}, None, 1, "stopped"),
        ({"process": ENDED_PROCESS}, -5, 1, "stopped"),
        ({"process": ENDED_PROCESS}, 5, 1, "ended"),
        ({}, 5, 1, "running"),
        ({}, 5, 10, "ended"),
        ({"host": "elsewhere", "process": ENDED_PROCESS}, None, 1, "running"),
        ({"host": "elsewhere", "process": ENDED_PROCESS}, -5, 10, "running"),
        ({"host": "elsewhere", "process": ENDED_PROCESS}, 5, 1, "ended"),
    ],
)
def test_the_state_depends_on_the_process_and_the_report(
    run: Run, record: dict[str, Any], report_s: float | None, logs: int, state: str
) -> None:
    run.record(**record)
    for number in range(logs):
        run.log(f"img_{number}", 2)
    if report_s is not None:
        run.file("report.tsv", report_s)
    assert run.read().state == state


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_a_run_counts_as_running_after_a_change_of_the_system_clock(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.record()
    created_s = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created_s + 3600)
    assert run.read().state == "running"


@pytest.mark.parametrize("report", ["report.tsv", "complete.json"])
def test_the_elapsed_time_of_an_ended_run_is_constant(run: Run, report: str) -> None:
    run.record(process=ENDED_PROCESS)
    run.log("a", 5)
    run.file(report, 20)
    assert [run.read().elapsed_s for run.now_s in (30, 3000)] == [20, 20]


# Images per minute.


def every(period_s: float, begin_s: float, end_s: float) -> list[float]:
    count = int((end_s - begin_s) / period_s)
    return [begin_s + period_s * (number + 1) for number in range(count)]


@pytest.mark.parametrize(
    ("moments_s", "now_s", "expected_per_min"),
    [
        ([], 10, None),
        ([5], 10, None),
        ([300, 305], 310, 6),
        (every(1, 0, 30), 30, 60),
        (every(1, 0, 300), 300, 60),
        (every(1, 0, 300) + every(0.25, 300, 400), 400, 240),
        (every(30, 0, 3000), 3000, 2),
        (every(1, 0, 300), 1480, 1),
    ],
    ids=["none", "one", "two", "new run", "constant", "faster recently", "slow", "stalled"],
)
def test_the_recent_images_per_minute(
    moments_s: list[float], now_s: float, expected_per_min: float | None
) -> None:
    found = recent_per_min(moments_s, now_s)
    assert found == (expected_per_min and pytest.approx(expected_per_min, rel=0.01))


def test_the_remaining_time_is_computed_from_the_current_rate(run: Run) -> None:
    run.record(images=100)
    for second in range(1, 31):
        run.log(f"img_{second}", second)
    for second in range(1, 11):
        run.log(f"reused_{second}", 30, note=NOTE_REUSED, attempts=())
    run.now_s = 30
    view = run.read()
    assert (view.recent_per_min, view.overall_per_min, view.pending, view.remaining_s) == (
        60,
        60,
        60,
        60,
    )


# Batches and transports.


def switch(second: float, reason: str) -> dict[str, Any]:
    transports = {"from_transport": "http", "to_transport": "webrtc"}
    return {"at": at(second), "event": "switch", "reason": reason} | transports


def mark_running(run: Run, batch_id: str) -> None:
    """Write the lock of a batch on another host, whose locks cannot be checked."""
    run.file(f"batches/.{batch_id}.lock", 1)


@pytest.mark.parametrize(
    ("host", "files", "done_count", "running_batches"),
    [
        ("elsewhere", {".0001.lock": 1}, 0, ("0001",)),
        ("elsewhere", {".0001.lock": 1, "0001.json": 5, ".0002.lock": 6}, 1, ("0002",)),
        ("elsewhere", {".0001.lock": -9, "0001.json": -5}, 0, ()),
        (HERE, {".0001.lock": 1}, 0, ()),
    ],
    ids=["started", "one ended", "of an earlier run", "unlocked"],
)
def test_running_batches_are_those_with_a_lock_and_no_newer_manifest(
    run: Run, host: str, files: dict[str, float], done_count: int, running_batches: tuple[str, ...]
) -> None:
    run.record(host=host)
    for name, second in files.items():
        run.file(f"batches/{name}", second)
    view = run.read()
    assert (view.batches_done, view.running_batches) == (done_count, running_batches)


NO_TRAFFIC = {"calls": 0, "failures": 0, "bytes_up": 0, "bytes_down": 0}
UNKNOWN = TransportView(
    **{"name": "webrtc"} | NO_TRAFFIC,  # type: ignore[arg-type]
    round_trip_s=None,
    up_bytes_per_s=None,
    down_bytes_per_s=None,
    states=(),
    in_flight=0,
    reconnects=None,
    heard_s=None,
)
HEALTHY = replace(
    UNKNOWN,
    round_trip_s=0.02,
    up_bytes_per_s=2e7,
    down_bytes_per_s=1e7,
    states=(("connected", 1),),
    in_flight=2,
    reconnects=1,
    heard_s=11.0,
)
OPEN = {"at": at(10), "event": "open", "transport": "webrtc", "seconds": 0.1}
LEFT = {"at": at(20), "event": "left", "transport": "webrtc", "error": "closed", "rest_s": 30}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([OPEN], replace(UNKNOWN, states=(("open", 1),))),
        ([OPEN, health(50)], HEALTHY),
        ([health(50), health(-50, state="old", reconnects=9)], HEALTHY),
        (
            [health(50, replica="r1"), health(55, replica="r2", state="new", in_flight=1)],
            replace(
                HEALTHY,
                states=(("connected", 1), ("new", 1)),
                in_flight=3,
                reconnects=2,
                heard_s=6.0,
            ),
        ),
        (
            [health(15, replica="r1"), LEFT],
            replace(HEALTHY, states=(("left", 1),), in_flight=0, heard_s=None),
        ),
        (
            [health(10, reconnects=4), health(20, reconnects=5), health(50)],
            replace(HEALTHY, reconnects=6),
        ),
        (
            [health(10), health(50, round_trip_s=None, up_bytes_per_s=None, heard_s=None)],
            replace(HEALTHY, heard_s=None),
        ),
        (["not json\n", '{"event": "health"}\n', "[]\n", health(50)], HEALTHY),
        (
            [health(50, round_trip_s="x", in_flight=[], heard_s={}, reconnects=10**400)],
            replace(HEALTHY, round_trip_s=None, in_flight=0, heard_s=None, reconnects=0),
        ),
    ],
)
def test_the_state_of_a_transport_comes_from_the_journals(
    run: Run, events: list[Any], expected: TransportView
) -> None:
    run.record(host="elsewhere")
    mark_running(run, "0001")
    run.events("0001", *events)
    assert run.read().transports == (expected,)


def test_calls_and_bytes_come_from_the_image_logs(run: Run) -> None:
    run.record()
    run.log("a", 9, attempts=(attempt("webrtc", 5, ok=False), attempt("http", 6)))
    run.log("b", 9, attempts=(attempt("http", 8),))
    http, webrtc = run.read().transports
    assert (http.name, http.calls, http.failures, http.bytes_up, http.bytes_down) == (
        *("http", 2, 0, 2000, 200),
    )
    assert (http.up_bytes_per_s, http.down_bytes_per_s) == (2000, 400)
    assert webrtc == replace(UNKNOWN, calls=1, failures=1, bytes_up=1000)


def test_the_newest_switches_and_errors_come_first(run: Run) -> None:
    run.record()
    run.events("0001", switch(9, "late"), {"at": at(30), "event": "probe"})
    run.events("0002", switch(7, "early"), LEFT)
    run.log("a", 5, **failed("image", "torn"))
    run.log("b", 6, **failed("service", "broke"))
    view = run.read()
    assert [(each.batch, each.what, each.reason) for each in view.changes] == [
        ("0002", "stopped using webrtc", "closed"),
        ("0001", "http → webrtc", "late"),
        ("0002", "http → webrtc", "early"),
    ]
    assert [(each.image, each.kind, each.message) for each in view.errors] == [
        ("b", "service", "broke"),
        ("a", "image", "torn"),
    ]


# The displayed text.


@pytest.fixture
def busy(run: Run) -> Run:
    run.record(host="elsewhere", process=ENDED_PROCESS)
    mark_running(run, "0001")
    for second in range(1, 7):
        run.log(f"img_{second}", second, attempts=(attempt("webrtc", second),))
        run.log(f"torn_{second}", second, **failed("image", "x" * 200))
        run.events("0001", switch(second, "predicted " + "y" * 200))
    run.events("0001", health(50))
    return run


SERVICE = {"pipeline_depth": 9, "device_busy": 0.87, "images_per_s": 2.5}


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        # An older service, or client, reports nothing.
        ([health(50)], []),
        ([health(50, **dict.fromkeys(SERVICE))], []),
        (
            [health(50, **SERVICE)],
            ["service: device busy 87%, 150.0 images/min for all its users, pipeline depth 9"],
        ),
        ([health(50, pipeline_depth=3)], ["service: pipeline depth 3"]),
        # The newest of each replica, whichever transport reported it.
        (
            [
                health(55, replica="r1", pipeline_depth=5),
                health(50, replica="r1", **SERVICE, transport="http"),
                health(40, replica="r2", pipeline_depth=4),
            ],
            ["service r1: pipeline depth 5", "service r2: pipeline depth 4"],
        ),
        ([health(50, pipeline_depth="9"), health(50, pipeline_depth=10**400)], []),
    ],
)
def test_the_view_shows_what_the_service_reports(
    run: Run, events: list[Any], lines: list[str]
) -> None:
    run.record(host="elsewhere")
    mark_running(run, "0001")
    run.events("0001", *events)
    shown = [line.strip() for line in text_of(run.read()).splitlines()]
    assert [line for line in shown if line.startswith("service")] == lines


def test_the_view_shows_the_state_of_the_run(busy: Run) -> None:
    text = text_of(busy.read())
    for words in (
        "demo  running on elsewhere for 1 min 00 s",
        "6 done, 6 failed, 0 left of 10 images",
        "11.2 images/min now",
        "batches 0 of 2, running: 0001",
        "6.0 kB, 20.0 MB/s",
        "11 s ago",
        "http → webrtc: predicted",
        "torn_6 (image)",
    ):
        assert words in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (120, 40), (60, 30)])
def test_the_live_view_fits_the_terminal(busy: Run, width: int, height: int) -> None:
    lines = text_of(busy.read(), width, height).splitlines()
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)


def test_the_plain_line_shows_the_state_of_the_run(busy: Run) -> None:
    assert plain_line(busy.read()) == (
        "2026-03-01T10:01:00Z demo: running on elsewhere for 1 min 00 s,"
        " 6 done, 6 failed, 0 left of 10 images, 11.2 images/min now,"
        " 12.0 images/min overall, 0 s left, webrtc 6 calls 20.0 MB/s up"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3660, "1 h 01 min"), (90000, "1 d 01 h")],
)
def test_a_duration_has_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("form", [text_of, plain_line])
def test_hostile_text_is_shown_without_control_characters_or_markup(
    run: Run, form: Callable[[RunView], str]
) -> None:
    run.record(host=HOSTILE, images=2**63 - 1)
    mark_running(run, "[red]\x1b[31m")
    hostile = [attempt("http", 5)]
    run.log(HOSTILE, 5, attempts=tuple(hostile), **{"status": "failed"})
    run.log("b", 5, **failed(HOSTILE, HOSTILE))
    events = [health(6, transport=HOSTILE, state=HOSTILE), switch(7, HOSTILE)]
    run.events("[red]\x1b[31m", *(json.dumps(event) + "\n" for event in events))
    text = form(run.read())
    assert "[bold]x[/bold]" in text
    assert all(line.isprintable() for line in text.splitlines())


# The command.


def test_a_missing_folder_gives_one_line_of_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["monitor", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path / 'none'}: no such folder of results\n"


@pytest.mark.parametrize("options", [["--once"], ["--every-s", "0.01"]])
def test_the_command_exits_when_the_run_has_ended(finished_run: Path, options: list[str]) -> None:
    result = CliRunner().invoke(main, ["monitor", str(finished_run / "results/demo"), *options])
    assert result.exit_code == 0
    assert "4 done (1 of them from earlier runs), 1 failed" in result.output
    assert "\x1b" not in result.output


def test_the_command_prints_lines_until_an_interrupt_and_then_exits_with_status_0(run: Run) -> None:
    run.record()
    command = [sys.executable, "-m", "samcourier.cli", "monitor", str(run.dataset_dir)]
    with subprocess.Popen(
        [*command, "--every-s", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    lines = [first, second, *rest.splitlines()]
    assert all(
        re.match(r"20\d\d-.*Z demo: running on .* 10 left of 10 images", line) for line in lines
    )


# The record of a run.

BATCHES = [
    Batch(f"{number:04d}", tuple(ImageRow(f"{number}{each}", Path("x")) for each in "ab"))
    for number in (1, 2, 3)
]


@pytest.mark.parametrize(
    ("to_make", "only", "images", "batches", "kept"),
    [
        (BATCHES, None, 6, 3, Kept()),
        (BATCHES[2:], None, 4, 2, Kept(1, 1, 1)),
        (BATCHES[2:], ["1a", "3a"], 2, 2, Kept(1, 1, 0)),
    ],
    ids=["new folder", "one batch again", "some images"],
)
def test_the_record_of_a_run_has_its_images_and_batches(
    run: Run, to_make: list[Batch], only: list[str] | None, images: int, batches: int, kept: Kept
) -> None:
    """Batch 0001 was made by an earlier run; no run has requested batch 0002."""
    entries = {"1a": ManifestEntry("done"), "1b": ManifestEntry("failed", failure_kind="image")}
    write_manifest(run.dataset_dir / "batches/0001.json", Manifest("0001", entries))
    others = [batch for batch in BATCHES if batch not in to_make]
    start_record(run.dataset_dir, to_make, others, only, cut="")
    record = read_run_record(run.dataset_dir)
    assert record is not None
    assert (record.images, record.batches, record.kept) == (images, batches, kept)
    assert (record.host, record.process) == (HERE, ME)


def test_a_run_with_other_batches_is_refused_while_a_batch_of_an_earlier_run_is_running(
    run: Run,
) -> None:
    start_record(run.dataset_dir, BATCHES, cut="old")
    lock = run.file("batches/.0002.lock", 1)
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        start_record(run.dataset_dir, BATCHES, cut="old")
        with pytest.raises(InputError, match=r"batch 0002 of an earlier run is still running"):
            start_record(run.dataset_dir, BATCHES, cut="new")
    start_record(run.dataset_dir, BATCHES, cut="new")


def test_the_batching_digest_depends_only_on_image_ids_and_batch_size() -> None:
    rows = [row for batch in BATCHES for row in batch.rows]
    assert batching_digest(rows, 2) == batching_digest([replace(row, model="m") for row in rows], 2)
    assert (
        len(
            {
                batching_digest(rows, 2),
                batching_digest(rows, 3),
                batching_digest(rows[::-1], 2),
                batching_digest(rows[1:], 2),
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": "samcourier/run/1"},
        {"started_at": "yesterday"},
        {"process": "²-1"},
        {"process": "1"},
        {"process": "1-../1"},
        {"images": -1},
        {"images": 2**65},
        {"kept": {}},
        {"more": 1},
    ],
)
def test_a_damaged_record_is_read_as_none(run: Run, damage: dict[str, Any]) -> None:
    run.record(**damage)
    assert read_run_record(run.dataset_dir) is None
    assert run.read().state == "unrecorded"
