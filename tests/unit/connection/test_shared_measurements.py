"""What one job measured serves the next, if it is of the same service and fresh."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from samcourier.connection import shared_measurements as measurements
from samcourier.connection.shared_measurements import (
    TRUST_S,
    Measurements,
    read_measurements,
    write_measurements,
)
from samcourier.connection.throughput import Estimate, Pace

NOW_UNIX_S = 1_800_000_000.0
WEBRTC = Estimate((0.01,), (Pace(9, 2e-7), Pace(8, 3e-7)), (), NOW_UNIX_S)


@pytest.fixture(autouse=True)
def clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements.time, "time", lambda: NOW_UNIX_S)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_measurements(tmp_path / "m.json", "ws/c:s", "webrtc", {"webrtc": WEBRTC})
    found = read_measurements(tmp_path / "m.json", "ws/c:s")
    assert (found.last_used, found.estimates) == ("webrtc", {"webrtc": WEBRTC})


@pytest.mark.parametrize("age_s", [TRUST_S + 1, -5])
def test_what_is_old_or_of_the_future_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float
) -> None:
    write_measurements(tmp_path / "m.json", "s", "webrtc", {"webrtc": WEBRTC})
    later = measurements.time.time() + age_s
    monkeypatch.setattr(measurements.time, "time", lambda: later)
    assert read_measurements(tmp_path / "m.json", "s").estimates == {}


def test_what_a_job_only_read_grows_older_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun_s = tmp_path / "m.json", WEBRTC.measured_unix_s
    known = {"webrtc": WEBRTC, "websocket": WEBRTC}
    for passed_s in (0.4 * TRUST_S, 0.8 * TRUST_S, 1.2 * TRUST_S):
        # Each job measures the one it uses, and hands on what it read of the other.
        known["websocket"] = replace(WEBRTC, measured_unix_s=begun_s + passed_s - 1)
        monkeypatch.setattr(measurements.time, "time", lambda at_s=begun_s + passed_s: at_s)
        write_measurements(path, "s", "websocket", known)
    found = read_measurements(path, "s")
    assert (found.last_used, set(found.estimates)) == ("websocket", {"websocket"})


def test_another_service_is_another_network(tmp_path: Path) -> None:
    write_measurements(tmp_path / "m.json", "ws/one:s", "webrtc", {"webrtc": WEBRTC})
    assert read_measurements(tmp_path / "m.json", "ws/two:s").last_used is None


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"service_id": "s"}'])
def test_a_missing_or_damaged_file_means_nothing_is_known(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_text(content)
    found = read_measurements(path, "s")
    assert isinstance(found, Measurements)
    assert (found.last_used, found.estimates) == (None, {})
