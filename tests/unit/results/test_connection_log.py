"""The journals of all batches: merged by time, and what of them is kept in memory."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from samcourier.evaluation.transport_changes import MAX_SHOWN, Switch, changes_of, read_changes
from samcourier.results.connection_log import ConnectionJournal, connection_events, merge_journals

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
#: What other programs and torn disks leave among the events.
RUBBISH = (
    'null\n{"at": 5, "event": "x"}\n{"event": "x"}\n{"at": "soon", "event": "x"}\n\n{"at": "2026-'
    '\n{"at": "0001-01-01T00:00:00+23:59", "event": "x"}\n{"at": "2026-03-01", "event": NaN}\n'
)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def write_journal(folder: Path, batch: str, events: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(event) + "\n" for event in events)
    (folder / f"{batch}.jsonl").write_text("".join(lines))


def health(second: float) -> dict[str, Any]:
    """Return one of the events of which a long run leaves millions."""
    return {"at": at(second), "event": "health", "transport": "http", "state": {"socket": "open"}}


def merged(folder: Path) -> list[dict[str, Any]]:
    merge(folder)
    lines = (folder / "out/connection.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(params=[1, 100, 1 << 20], ids=lambda size: f"{size} bytes")
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read ahead less than a line of each journal, some lines, or all."""
    monkeypatch.setattr("samcourier.results.connection_log._READ_AHEAD_BYTES", request.param)
    monkeypatch.setattr("samcourier.results.connection_log._LEAST_BLOCK_BYTES", 1)
    size: int = request.param
    return size


@pytest.mark.usefixtures("block_bytes")
def test_merged_journals_are_sorted_by_time_and_say_their_batch(tmp_path: Path) -> None:
    times = {
        "0001": ["2026-03-01T10:00:00+00:00", "2026-03-01T10:00:09.5+00:00"],
        "0002": ["2026-03-01T12:00:05+02:00", "2026-03-01T10:00:09.25Z"],
        "0003": [],
    }
    for batch, moments in times.items():
        write_journal(tmp_path, batch, [{"at": each, "event": "open"} for each in moments])
        with (tmp_path / f"{batch}.jsonl").open("a") as stream:
            stream.write(RUBBISH)
    assert [(event["batch"], event["at"]) for event in merged(tmp_path)] == [
        ("0001", times["0001"][0]),
        ("0002", times["0002"][0]),
        ("0002", times["0002"][1]),
        ("0001", times["0001"][1]),
    ]


@pytest.mark.usefixtures("block_bytes")
def test_a_clock_that_was_set_back_loses_no_event_and_leaves_other_journals_in_order(
    tmp_path: Path,
) -> None:
    """A batch keeps the order in which it wrote."""
    seconds = {"0001": [10, 70, 40, 50, 90], "0002": [20, 30, 60, 80]}
    for batch, moments in seconds.items():
        write_journal(tmp_path, batch, [health(each) for each in moments])
    found = merged(tmp_path)
    for batch, moments in seconds.items():
        of_batch = [event["at"] for event in found if event["batch"] == batch]
        assert of_batch == [at(each) for each in moments]
    assert len(found) == 9


def test_a_journal_that_is_continued_after_a_torn_line_keeps_its_whole_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "0001.jsonl"
    path.write_text('{"at": "2026-03-01T10:00:00+00:00", "event": "opened"}\n{"at": "2026-03-01T1')
    with ConnectionJournal(path) as journal:
        journal.record("opened", transport="http")
    assert [event["event"] for event in merged(tmp_path)] == ["opened"] * 2


def test_without_any_journal_the_merged_one_is_empty(tmp_path: Path) -> None:
    merge_journals(tmp_path / "none", tmp_path / "connection.jsonl")
    assert (tmp_path / "connection.jsonl").read_text() == ""


def test_a_merge_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_journal(tmp_path, "0001", [health(1)])
    old = merged(tmp_path)
    (tmp_path / "0002.jsonl").mkdir()
    with pytest.raises(OSError, match="0002"):
        merge(tmp_path)
    (left,) = (tmp_path / "out").iterdir()
    assert [json.loads(left.read_text())] == old


@contextmanager
def open_files_left(count: int) -> Iterator[None]:
    """Let this process open but ``count`` files more at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(4096) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_journals_than_a_process_may_open_are_merged(tmp_path: Path) -> None:
    for number in range(50):
        write_journal(tmp_path, f"{number:04d}", [health(number), health(number + 60)])
    with open_files_left(10):
        found = merged(tmp_path)
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    assert len(found) == 100


def merge(folder: Path) -> None:
    merge_journals(folder, folder / "out/connection.jsonl")


def peak_bytes(work: Callable[[Path], object], folder: Path) -> int:
    """Return the most memory that ``work`` holds, but for what it imports and keeps for good."""
    work(folder)
    tracemalloc.start()
    try:
        work(folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("work", [merge, read_changes])
def test_a_run_of_twenty_times_the_hours_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], object]
) -> None:
    monkeypatch.setattr("samcourier.results.connection_log._READ_AHEAD_BYTES", 4 << 10)
    for name, count in {"short": 100, "long": 2000}.items():
        for batch in ("0001", "0002"):
            write_journal(tmp_path / name, batch, [health(each) for each in range(count)])
    of_short, of_long = (peak_bytes(work, tmp_path / name) for name in ("short", "long"))
    assert of_long < of_short + 100_000


CHANGES = [
    health(1),
    {"at": at(9), "event": "left", "error": "channel closed"},
    {"at": at(7), "event": "switch", "to_transport": "http", "reason": "faster"},
    {"at": at(3), "event": "replica_refused", "reason": "another model"},
    {"at": at(2), "event": "probe", "seconds": 0.1, "note": 'no switch, no "reason"'},
]


def test_what_states_a_reason_or_an_error_is_kept_by_time_and_the_rest_is_not(
    tmp_path: Path,
) -> None:
    write_journal(tmp_path, "0001", CHANGES)
    write_journal(tmp_path, "0002", [{"at": at(5), "event": "switch", "to_transport": "webrtc"}])
    changes = read_changes(tmp_path)
    assert [each["event"] for each in changes.first] == ["replica_refused", "switch", "left"]
    assert {each["batch"] for each in changes.first} == {"0001"}
    assert changes.count == 3
    assert changes.switches == (
        Switch(START.timestamp() + 5, "webrtc"),
        Switch(START.timestamp() + 7, "http"),
    )


def test_of_very_many_changes_the_first_are_kept() -> None:
    many = [{"at": at(second), "event": "left", "error": "gone"} for second in range(1000)]
    changes = changes_of(reversed(many))
    assert changes.count == 1000
    assert list(changes.first) == many[:MAX_SHOWN]


def test_events_are_read_by_what_they_hold(tmp_path: Path) -> None:
    write_journal(tmp_path, "0001", CHANGES)
    assert len(list(connection_events(tmp_path))) == 5
    (switch,) = connection_events(tmp_path, "switch")
    assert switch == CHANGES[2] | {"batch": "0001"}
