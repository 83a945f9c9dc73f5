"""Tests of the calls over time, the marks of switches, and predicted against measured times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from samcourier.evaluation.transport_changes import Switch
from samcourier.failure import Failure
from samcourier.report.charts import calls_chart, prediction_chart, stage_chart
from samcourier.report.timeline import (
    MAX_BINS,
    MAX_POINTS,
    Clock,
    Mark,
    Prediction,
    calls_over_time,
    prediction_quality,
    predictions,
    round_bin_s,
    run_clock,
    switch_marks,
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
        error=None
        if outcome == "ok"
        else Failure("transport", "TransportFailed", "channel closed"),
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
    ids=[
        "no images",
        "before",
        "within",
        "after",
        "short pause",
        "after a long pause",
        "in a long pause",
        "unsorted",
    ],
)
def test_the_time_axis_leaves_out_long_pauses(
    spans: list[tuple[float, float]], moment_s: float, expected_s: float
) -> None:
    clock = run_clock(log(*span) for span in spans)
    assert clock.since_start_s(START.timestamp() + moment_s) == expected_s


@pytest.mark.parametrize(
    ("least_s", "bin_s"), [(0, 0.1), (0.1, 0.1), (0.11, 0.2), (42, 60), (3601, 7200)]
)
def test_the_bin_width_is_a_round_number(least_s: float, bin_s: float) -> None:
    assert round_bin_s(least_s) == bin_s


def test_calls_count_in_the_bin_of_their_end_and_failed_calls_separately() -> None:
    logs = [
        log(0, 90, call("http", 0.2), call("webrtc", 0.1, "failed")),
        log(0, 90, call("webrtc", 88.4)),
    ]
    timeline = calls_over_time(logs, run_clock(logs))
    ok, failed = timeline.calls, timeline.failed
    assert (timeline.bin_s, timeline.bin_count) == (1, 90)
    assert (ok["http"][0], failed["webrtc"][0], ok["webrtc"][88]) == (1, 1, 1)
    assert sum(sum(counts) for counts in [*ok.values(), *failed.values()]) == 3
    assert timeline.mb_s["http"][:2] == [pytest.approx(10), None]


def test_a_long_run_has_at_most_max_bins() -> None:
    logs = [log(20 * n, 20 * n + 20, call("http", 20 * n)) for n in range(3000)]
    timeline = calls_over_time(logs, run_clock(logs))
    assert timeline.bin_count <= MAX_BINS
    assert sum(timeline.calls["http"]) == 3000


def test_only_switches_during_the_run_are_marked() -> None:
    clock = Clock((START.timestamp(),), (START.timestamp() + 100,))
    before, within, after = (
        Switch(START.timestamp() + second, to_transport)
        for second, to_transport in ((-50, "http"), (7, "webrtc"), (500, "http"))
    )
    assert switch_marks([before, within, after], clock) == [Mark(7, "webrtc")]
    assert len(switch_marks([within] * 1000, clock)) <= 40
    assert switch_marks([within], Clock((), ())) == []


def test_only_successful_calls_with_both_times_give_a_prediction() -> None:
    predicted = call("http", 0, predicted_s=0.1, travel_alone_s=0.2)
    failed = replace(predicted, outcome="failed", error=Failure("a", "b", "c"))
    calls = predictions([log(0, 1, predicted, failed, call("http", 0))])
    assert calls == [Prediction("http", 0.1, 0.2)]


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        (
            [1, 1.9, 0.6, 4],
            "For 75% of 4 calls, the transfer took between half and twice the predicted time",
        ),
        ([3], "the median call took 3.00 times as long as predicted"),
    ],
)
def test_a_sentence_describes_the_quality_of_the_predictions(
    ratios: list[float], text: str
) -> None:
    assert text in str(prediction_quality([Prediction("http", 1, ratio) for ratio in ratios]))


def test_without_predictions_there_is_no_sentence() -> None:
    assert prediction_quality([]) is None


def test_charts_have_a_limited_number_of_points_and_series_of_equal_length() -> None:
    logs = [log(n, n + 1, call("http", n), call("webrtc", n, "failed")) for n in range(5000)]
    timeline = calls_over_time(logs, run_clock(logs))
    calls = [Prediction("http" if n % 2 else "webrtc", n + 1, n + 2) for n in range(5000)]
    for chart in (calls_chart(timeline, []), prediction_chart(calls, "")):
        assert len(chart["x"]) <= MAX_POINTS
        assert {len(each["values"]) for each in chart["series"]} == {len(chart["x"])}
    assert [each["label"] for each in calls_chart(timeline, [])["series"]] == [
        "http",
        "webrtc failed",
    ]
    alt = calls_chart(timeline, [Mark(1, "http")])["alt"]
    assert alt.endswith("1 switches of transport are marked.")


@pytest.mark.parametrize(("count", "bars", "label"), [(24, 24, "seconds"), (1000, 91, "11 images")])
def test_a_bar_shows_the_mean_of_several_images_if_there_are_many(
    count: int, bars: int, label: str
) -> None:
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
