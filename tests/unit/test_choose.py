"""Choosing a transport is a table: what was measured, what is in use, who is first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcourier.choose import (
    CLEAR_GAIN,
    Candidate,
    Estimate,
    Payload,
    Sample,
    image_codec,
    learn,
    predict_s,
    rank,
)

MB = 1_000_000
IMAGE = Payload(8 * MB, 1 * MB)


def measured(name: str, seconds: float, blocked: str | None = None) -> Candidate:
    """Return a transport that is predicted to take ``seconds`` for IMAGE."""
    rate = (IMAGE.up_bytes + IMAGE.down_bytes) / seconds
    return Candidate(name, Estimate(0.0, rate, rate, 3), blocked)


UNKNOWN = Candidate("webrtc")


@pytest.mark.parametrize(
    ("candidates", "current", "expected"),
    [
        ([Candidate("websocket"), UNKNOWN], None, ["websocket", "webrtc"]),
        ([UNKNOWN, measured("websocket", 9)], None, ["websocket", "webrtc"]),
        ([measured("websocket", 2), measured("webrtc", 1)], None, ["webrtc", "websocket"]),
        ([measured("websocket", 2), measured("webrtc", 1)], "websocket", ["webrtc", "websocket"]),
        ([measured("websocket", 1), measured("webrtc", 0.9)], "websocket", ["websocket", "webrtc"]),
        ([measured("websocket", 1), measured("webrtc", 0.9)], "webrtc", ["webrtc", "websocket"]),
        ([measured("websocket", 3e-3), measured("http", 1e-3)], "websocket", ["websocket", "http"]),
        ([measured("websocket", 1, "failed"), measured("http", 9)], "websocket", ["http"]),
        ([measured("websocket", 1, "failed")], None, []),
        ([Candidate("websocket"), measured("http", 1)], "websocket", ["http", "websocket"]),
        ([], None, []),
    ],
)
def test_the_ranking(candidates: list[Candidate], current: str | None, expected: list[str]) -> None:
    assert [choice.name for choice in rank(candidates, IMAGE, current)] == expected


def test_every_choice_says_why_in_words() -> None:
    first, second, third = rank(
        [measured("websocket", 2), measured("webrtc", 0.5), Candidate("http")], IMAGE
    )
    assert first.reason == "predicted 0.500 s, websocket 2.000 s"
    assert second.reason == "predicted 2.000 s, webrtc 0.500 s"
    assert third.reason == "not measured yet"
    kept = rank([measured("websocket", 1), measured("webrtc", 0.9)], IMAGE, "websocket")[0]
    assert kept.reason.endswith("kept, no clear gain elsewhere")


def test_one_transport_is_best_for_small_and_another_for_large_payloads() -> None:
    near = Candidate("websocket", Estimate(0.001, 1 * MB, 1 * MB, 3))
    broad = Candidate("webrtc", Estimate(0.100, 50 * MB, 50 * MB, 3))
    assert rank([near, broad], Payload(10_000, 0))[0].name == "websocket"
    assert rank([near, broad], Payload(8 * MB, 0))[0].name == "webrtc"


@pytest.mark.parametrize(
    ("samples", "round_trip_s", "up_mb_s", "down_mb_s"),
    [
        ([Sample(Payload(0, 0), 0.01, 0.01)], 0.02, None, None),
        ([Sample(Payload(0, 0), 0.01, 0.01), Sample(Payload(MB, 0), 0.11, 0.01)], 0.02, 10, None),
        ([Sample(Payload(0, 0), 0.0, 0.0), Sample(Payload(MB, MB), 0.1, 0.05)], 1e-4, 10, 20),
        ([Sample(Payload(MB, MB), 0.1, 0.05)], 0.0, 10, 20),
    ],
)
def test_what_samples_teach(
    samples: list[Sample], round_trip_s: float, up_mb_s: float | None, down_mb_s: float | None
) -> None:
    estimate = None
    for sample in samples:
        estimate = learn(estimate, sample)
    assert estimate is not None
    assert estimate.round_trip_s == pytest.approx(round_trip_s)
    for rate, expected in (
        (estimate.up_bytes_per_s, up_mb_s),
        (estimate.down_bytes_per_s, down_mb_s),
    ):
        assert rate == (None if expected is None else pytest.approx(expected * MB, rel=0.01))


def test_a_rate_that_the_payload_needs_must_be_known() -> None:
    only_up = Estimate(0.01, up_bytes_per_s=MB)
    assert predict_s(only_up, Payload(MB, 100)) == pytest.approx(1.01)
    assert predict_s(only_up, Payload(MB, MB)) is None


@pytest.mark.parametrize(
    ("up_bytes_per_s", "codec"),
    [(None, "blosc-lz4"), (100e6, "blosc-lz4"), (30e6, "blosc-lz4"), (2e6, "blosc-zstd")],
)
def test_a_slow_link_gets_the_smaller_codec(up_bytes_per_s: float | None, codec: str) -> None:
    assert image_codec(up_bytes_per_s) == codec


seconds = st.floats(0.001, 100)


@given(st.lists(st.tuples(seconds, st.booleans()), min_size=1, max_size=5), st.integers(0, 4))
def test_a_blocked_transport_is_never_chosen(
    given_transports: list[tuple[float, bool]], current: int
) -> None:
    candidates = [
        measured(f"t{number}", s, "down" if blocked else None)
        for number, (s, blocked) in enumerate(given_transports)
    ]
    names = {choice.name for choice in rank(candidates, IMAGE, f"t{current}")}
    assert names == {c.name for c in candidates if c.blocked is None}


@given(st.lists(st.floats(1 - CLEAR_GAIN / 2, 1.0), min_size=1, max_size=30))
def test_noise_below_the_clear_gain_never_switches(noise: list[float]) -> None:
    current = "websocket"
    for factor in noise:
        pair = [measured("websocket", 1.0), measured("webrtc", factor)]
        current = rank(pair, IMAGE, current)[0].name
    assert current == "websocket"


@given(before=st.floats(0.5, 50), after=st.floats(0.5, 50))
def test_an_estimate_follows_a_step_change(before: float, after: float) -> None:
    estimate = learn(None, Sample(Payload(0, 0), 0.0, 0.0))
    for rate_mb_s in [before] * 5 + [after] * 15:
        estimate = learn(estimate, Sample(Payload(8 * MB, 0), 8 / rate_mb_s, 0.0))
    assert estimate.up_bytes_per_s == pytest.approx(after * MB, rel=0.1)
