"""Calls over the time of a run, switches among them, and predictions held against what came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from samcourier.evaluation.transport_changes import Switch
from samcourier.failure import Failure
from samcourier.report.charts import calls_chart, prediction_chart, stage_chart
from samcourier.report.journey import (
    MOST_BINS,
    MOST_POINTS,
    Clock,
    Mark,
    Predicted,
    clock_of,
    marks,
    predicted_calls,
    prediction_quality,
    round_bin_s,
    timeline,
)
from samcourier.results.image_log import Attempt, CallBytes, CallSeconds, ImageLog, ImageSeconds

START = datetime(2026, 3, 1, 10, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def call(transport: Any, start_s: float, outcome: Any = "ok", **fields: Any) -> Attempt:
    return Attempt(
        transport=transport,
        reason="",
        started_at=at(start_s),
        outcome=outcome,
        error=None if outcome == "ok" else Failure("transport", "TransportFailed", "gone"),
        seconds=CallSeconds(total=0.5, send=0.1, queue=0.0, service=0.3, receive=0.1),
        bytes=CallBytes(1_000_000, 1_000_000),
        **fields,
    )


def log(start_s: float, end_s: float, *attempts: Attempt) -> ImageLog:
    return ImageLog(
        image="a",
        path="a.tif",
        status="done",
        finished_at=at(end_s),
        seconds=ImageSeconds(total=end_s - start_s),
        attempts=attempts,
    )


@pytest.mark.parametrize(
    ("spans", "moment_s", "expected_s"),
    [
        ([], 5, 0),
        ([(0, 10)], -3, 0),
        ([(0, 10)], 4, 4),
        ([(0, 10)], 14, 10),
        ([(0, 10), (20, 30)], 25, 25),
        ([(0, 10), (3600, 3610)], 3604, 14),
        ([(0, 10), (3600, 3610)], 1000, 10),
        ([(3600, 3610), (0, 10), (2, 8)], 3604, 14),
    ],
    ids=["none", "before", "within", "after", "short pause", "long pause", "in it", "unsorted"],
)
def test_long_pauses_are_left_out_of_the_time_axis(
    spans: list[tuple[float, float]], moment_s: float, expected_s: float
) -> None:
    clock = clock_of(log(*span) for span in spans)
    assert clock.since_start_s(START.timestamp() + moment_s) == expected_s


@pytest.mark.parametrize(
    ("least_s", "bin_s"), [(0, 0.1), (0.1, 0.1), (0.11, 0.2), (42, 60), (3601, 7200)]
)
def test_bins_are_round(least_s: float, bin_s: float) -> None:
    assert round_bin_s(least_s) == bin_s


def test_calls_are_counted_when_they_end_and_failed_ones_apart() -> None:
    logs = [
        log(0, 90, call("http", 0.2), call("webrtc", 0.1, "failed")),
        log(0, 90, call("webrtc", 88.4)),
    ]
    line = timeline(logs, clock_of(logs))
    assert (line.bin_s, line.bin_count) == (1, 90)
    assert (line.calls["http"][0], line.failed["webrtc"][0], line.calls["webrtc"][88]) == (1, 1, 1)
    assert sum(sum(counts) for counts in [*line.calls.values(), *line.failed.values()]) == 3
    assert line.mb_s["http"][:2] == [pytest.approx(10), None]


def test_a_week_of_calls_is_as_many_bars_as_fit() -> None:
    logs = [log(20 * n, 20 * n + 20, call("http", 20 * n)) for n in range(3000)]
    line = timeline(logs, clock_of(logs))
    assert line.bin_count <= MOST_BINS
    assert sum(line.calls["http"]) == 3000


def test_switches_of_this_run_are_marked() -> None:
    clock = Clock((START.timestamp(),), (START.timestamp() + 100,))
    before, within, after = (
        Switch(START.timestamp() + second, to_transport)
        for second, to_transport in ((-50, "http"), (7, "webrtc"), (500, "http"))
    )
    assert marks([before, within, after], clock) == [Mark(7, "webrtc")]
    assert len(marks([within] * 1000, clock)) <= 40
    assert marks([within], Clock((), ())) == []


def test_predictions_are_held_against_what_was_measured() -> None:
    told = call("http", 0, predicted_s=0.1, travel_alone_s=0.2)
    failed = replace(told, outcome="failed", error=Failure("a", "b", "c"))
    calls = predicted_calls([log(0, 1, told, failed, call("http", 0))])
    assert calls == [Predicted("http", 0.1, 0.2)]


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([1, 1.9, 0.6, 4], "Of 4 calls 75% travelled within half to twice the predicted time"),
        ([3], "the median took 3.00 times as long as predicted"),
    ],
)
def test_how_well_was_predicted_is_said(ratios: list[float], said: str) -> None:
    assert said in str(prediction_quality([Predicted("http", 1, ratio) for ratio in ratios]))


def test_without_predictions_nothing_is_said() -> None:
    assert prediction_quality([]) is None


def test_charts_are_bounded_and_their_series_as_long_as_their_axis() -> None:
    logs = [log(n, n + 1, call("http", n), call("webrtc", n, "failed")) for n in range(5000)]
    line = timeline(logs, clock_of(logs))
    calls = [Predicted("http" if n % 2 else "webrtc", n + 1, n + 2) for n in range(5000)]
    for chart in (calls_chart(line, []), prediction_chart(calls, "")):
        assert len(chart["x"]) <= MOST_POINTS
        assert {len(each["values"]) for each in chart["series"]} == {len(chart["x"])}
    assert [each["label"] for each in calls_chart(line, [])["series"]] == [
        "http",
        "webrtc failed",
    ]
    assert calls_chart(line, [Mark(1, "http")])["alt"].endswith("1 changes of transport marked.")


@pytest.mark.parametrize(("count", "bars", "label"), [(24, 24, "seconds"), (1000, 91, "11 images")])
def test_many_images_share_a_bar(count: int, bars: int, label: str) -> None:
    from samcourier.evaluation.outcome import Outcome

    outcomes = [
        Outcome(str(n), "0001", "done", None, None, None, log(n, n + 1, call("http", n)))
        for n in range(count)
    ]
    chart = stage_chart(outcomes)
    assert len(chart["x"]) == bars
    assert label in chart["y_label"]
    service = next(each for each in chart["series"] if each["label"] == "service")
    assert set(service["values"]) == {0.3}
