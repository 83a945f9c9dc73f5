"""Choosing a transport is a table: what was measured, what is in use, who is first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcourier.connection.ranking import (
    CLEAR_GAIN,
    Candidate,
    image_codec,
    promising,
    rank,
    unproved,
)
from samcourier.connection.throughput import (
    TRUST_HALF_LIFE_S,
    Estimate,
    Pace,
    Payload,
    Sample,
    learn,
)

MB = 1_000_000
IMAGE = Payload(8 * MB, 1 * MB)


def measured(
    name: str, seconds: float, blocked: str | None = None, samples: int = 5, at_s: float = 0.0
) -> Candidate:
    """Return a transport that is predicted to take ``seconds`` for IMAGE."""
    up, down = Pace(IMAGE.up_bytes, seconds * 8 / 9), Pace(IMAGE.down_bytes, seconds / 9)
    return Candidate(name, Estimate((0.0,), (up,) * samples, (down,) * samples, at_s), blocked)


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
    assert first.reason == "predicted 0.500 s, websocket 2.000 s; http not measured yet"
    assert second.reason == "predicted 2.000 s, webrtc 0.500 s; http not measured yet"
    assert third.reason == "not measured yet"
    fresh = rank(
        [Candidate("websocket"), Candidate("webrtc"), Candidate("http", blocked="off")], IMAGE
    )
    assert fresh[0].reason == "not measured yet; webrtc not measured yet; http off"
    kept = rank([measured("websocket", 1), measured("webrtc", 0.9)], IMAGE, "websocket")[0]
    assert kept.reason.endswith("kept, no clear gain elsewhere")


def test_one_transport_is_best_for_small_and_another_for_large_payloads() -> None:
    near = Candidate("websocket", Estimate((0.001,), (Pace(MB, 1.0),), (Pace(MB, 1.0),)))
    broad = Candidate("webrtc", Estimate((0.100,), (Pace(MB, 0.02),), (Pace(MB, 0.02),)))
    assert rank([near, broad], Payload(10_000, 0))[0].name == "websocket"
    assert rank([near, broad], Payload(8 * MB, 0))[0].name == "webrtc"


@pytest.mark.parametrize(
    ("up_bytes_per_s", "codec"),
    [(None, "blosc-lz4"), (100e6, "blosc-lz4"), (30e6, "blosc-lz4"), (2e6, "blosc-zstd")],
)
def test_a_slow_link_gets_the_smaller_codec(up_bytes_per_s: float | None, codec: str) -> None:
    assert image_codec(up_bytes_per_s) == codec


def looked_at(name: str, seconds: float, blocked: str | None = None) -> Candidate:
    """A transport of which only a sixteenth of the image was sent, for which it took that share."""
    pace = Pace(IMAGE.up_bytes // 16, seconds / 16)
    return Candidate(name, Estimate((), (pace,), (Pace(IMAGE.down_bytes, 1e-4),)), blocked)


@pytest.mark.parametrize(
    ("candidates", "current", "expected"),
    [
        ([looked_at("websocket", 2), measured("webrtc", 1)], "webrtc", ["websocket"]),
        ([looked_at("websocket", 4), measured("webrtc", 1)], "webrtc", []),
        ([measured("websocket", 2), measured("webrtc", 1)], "webrtc", []),
        ([looked_at("websocket", 2, "failed"), measured("webrtc", 1)], "webrtc", []),
        ([measured("websocket", 1), looked_at("webrtc", 2)], "websocket", []),
        ([looked_at("websocket", 2), Candidate("webrtc")], "webrtc", []),
        ([looked_at("websocket", 2)], "webrtc", []),
    ],
    ids=[
        "left for a look", "far slower", "known by images", "failed", "not preferred",
        "nothing known of the current", "current gone",
    ],
)  # fmt: skip
def test_a_transport_abandoned_after_a_probe_gets_one_image(
    candidates: list[Candidate], current: str, expected: list[str]
) -> None:
    assert unproved(candidates, IMAGE, current) == expected


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


@pytest.mark.parametrize(
    ("other_s", "samples", "age_s", "taken", "worth_a_look"),
    [
        # Few samples are enough only where waiting for more costs much.
        (0.45, 1, 0, True, True),
        (0.55, 1, 0, False, True),
        (0.55, 2, 0, False, True),
        (0.55, 3, 0, True, True),
        (0.7, 5, 0, True, True),
        (0.7, 5, TRUST_HALF_LIFE_S, False, True),
        (0.5, 5, TRUST_HALF_LIFE_S, True, True),
        (0.01, 5, 4 * TRUST_HALF_LIFE_S, False, True),
        (0.9, 5, 0, False, False),
    ],
)
def test_how_much_faster_depends_on_how_far_it_is_trusted(
    other_s: float, samples: int, age_s: float, taken: bool, worth_a_look: bool
) -> None:
    pair = [measured("websocket", 1.0, at_s=age_s), measured("webrtc", other_s, samples=samples)]
    assert (rank(pair, IMAGE, "websocket", age_s)[0].name == "webrtc") == taken
    assert (promising(pair, IMAGE, "websocket", age_s) == ["webrtc"]) == worth_a_look


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([measured("websocket", 1), measured("webrtc", 0.1, "failed")], []),
        ([Candidate("websocket"), measured("webrtc", 9)], ["webrtc"]),
        ([measured("webrtc", 1), measured("http", 0.5)], []),
        ([measured("websocket", 1), UNKNOWN], []),
        (
            [measured("websocket", 1), measured("webrtc", 0.2), measured("http", 0.1)],
            ["http", "webrtc"],
        ),
    ],
)
def test_which_transports_are_probed_again(
    candidates: list[Candidate], expected: list[str]
) -> None:
    assert promising(candidates, IMAGE, "websocket", 0.0) == expected


def travelled(seconds: float) -> Sample:
    return Sample(IMAGE, seconds * 8 / 9, seconds / 9)


def used_after(histories: dict[str, list[float]], current: str) -> list[str]:
    """Return which transport is in use after each round, when all are measured in every round."""
    estimates = {name: Estimate() for name in histories}
    used = []
    for number, row in enumerate(zip(*histories.values(), strict=True)):
        for name, seconds in zip(histories, row, strict=True):
            estimates[name] = learn(estimates[name], travelled(seconds), float(number))
        candidates = [Candidate(name, estimate) for name, estimate in estimates.items()]
        current = rank(candidates, IMAGE, current, float(number))[0].name
        used.append(current)
    return used


@given(st.lists(st.tuples(st.floats(0.9, 1.1), st.floats(0.9, 1.1)), min_size=1, max_size=60))
def test_equal_transports_under_noise_are_never_switched(noise: list[tuple[float, float]]) -> None:
    first, second = zip(*noise, strict=True)
    used = used_after({"websocket": list(first), "webrtc": list(second)}, "websocket")
    assert set(used) == {"websocket"}


@given(slowed=st.floats(1.6, 1000), steady=st.integers(5, 20))
def test_a_step_change_is_followed_after_three_samples(slowed: float, steady: int) -> None:
    webrtc = [0.5] * steady + [slowed] * 3
    used = used_after({"websocket": [1.0] * (steady + 3), "webrtc": webrtc}, "webrtc")
    assert used[:-1] == ["webrtc"] * (steady + 2)
    assert used[-1] == "websocket"
