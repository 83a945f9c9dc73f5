"""What measured calls teach of a transport, and how far that is to be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcourier.connection.throughput import (
    KEPT_SAMPLES,
    TRUST_HALF_LIFE_S,
    Estimate,
    Pace,
    Payload,
    Sample,
    Transfer,
    alone_s,
    learn,
    merge_probe,
    predict_s,
    trust,
)
from samcourier.connection.timing import Traffic

MB = 1_000_000
PING = Payload(0, 0)
SECOND = Pace(MB, 1.0)


def learned(*samples: Sample) -> Estimate:
    estimate = Estimate()
    for at_s, sample in enumerate(samples):
        estimate = learn(estimate, sample, float(at_s))
    return estimate


@pytest.mark.parametrize(
    ("samples", "round_trip_s", "up_mb_s", "down_mb_s"),
    [
        ([Sample(PING, 0.01, 0.01)], 0.02, None, None),
        ([Sample(PING, 0.01, 0.01), Sample(Payload(MB, 0), 0.11, 0.01)], 0.02, 10, None),
        ([Sample(PING, 0.0, 0.0), Sample(Payload(MB, MB), 0.1, 0.05)], 1e-4, 10, 20),
        ([Sample(Payload(MB, MB), 0.1, 0.05)], 0.0, 10, 20),
        # An inflated round trip does not hide the shortest of the last few.
        ([Sample(PING, 0.01, 0.01), Sample(PING, 0.5, 0.5)], 0.02, None, None),
        # Nor does it leave a short transfer no time: it would look infinitely fast.
        ([Sample(PING, 0.05, 0.05), Sample(Payload(MB, 0), 0.04, 0.0)], 0.1, 40, None),
    ],
)
def test_what_samples_teach(
    samples: list[Sample], round_trip_s: float, up_mb_s: float | None, down_mb_s: float | None
) -> None:
    estimate = learned(*samples)
    assert estimate.round_trip_s == pytest.approx(round_trip_s)
    for rate, expected in (
        (estimate.up_bytes_per_s, up_mb_s),
        (estimate.down_bytes_per_s, down_mb_s),
    ):
        assert rate == (None if expected is None else pytest.approx(expected * MB, rel=0.01))


def sent_at(rate_mb_s: float) -> Sample:
    return Sample(Payload(8 * MB, 0), 8 / rate_mb_s, 0.0)


@given(odd=st.lists(st.floats(0.01, 1000), max_size=KEPT_SAMPLES // 2), order=st.randoms())
def test_a_few_odd_samples_change_nothing(odd: list[float], order: object) -> None:
    rates = [10.0] * (KEPT_SAMPLES - len(odd)) + odd
    order.shuffle(rates)  # type: ignore[attr-defined]
    assert learned(*map(sent_at, rates)).up_bytes_per_s == pytest.approx(10 * MB)


@given(before=st.floats(0.5, 50), after=st.floats(0.5, 50))
def test_a_lasting_change_is_believed_after_three_samples(before: float, after: float) -> None:
    rates = [before] * KEPT_SAMPLES + [after] * 3
    assert learned(*map(sent_at, rates)).up_bytes_per_s == pytest.approx(after * MB)


def test_a_small_probe_says_little_beside_a_whole_image() -> None:
    look = Sample(Payload(256_000, 0), 0.0001, 0.0)
    assert learned(look, sent_at(10)).up_bytes_per_s == pytest.approx(10 * MB)
    assert learned(sent_at(10), look, look).up_bytes_per_s == pytest.approx(10 * MB)


def test_a_rate_that_the_payload_needs_must_be_known() -> None:
    only_up = Estimate((0.01,), up=(Pace(MB, 1.0),))
    assert predict_s(only_up, Payload(MB, 100)) == pytest.approx(1.01)
    assert predict_s(only_up, Payload(MB, MB)) is None


@pytest.mark.parametrize(
    ("transfer", "others", "expected_s"),
    [
        ((0, 3), [], 3),
        ((0, 3), [(5, 9)], 3),
        ((0, 3), [(0, 3), (0, 3)], 1),
        ((0, 3), [(1, 2)], 2.5),
        ((0, 3), [(-1, 1), (2, 9)], 2),
        ((1, 1), [(0, 3)], 0),
    ],
)
def test_transfers_side_by_side_share_the_link(
    transfer: tuple[float, float], others: list[tuple[float, float]], expected_s: float
) -> None:
    assert alone_s(Transfer(*transfer), [Transfer(*each) for each in others]) == expected_s


def test_three_calls_at_once_are_not_taken_for_a_slower_link() -> None:
    traffic = Traffic()
    payload = Payload(MB, 0)
    tokens = [traffic.begin(payload, sent_unix_s=0.0) for _ in range(3)]
    # 10 MB/s shared by three calls: each one arrives after 0.3 s.
    alone = [traffic.end(token, Sample(payload, 0.3, 0.0), 0.3).send_s for token in tokens]
    assert alone == pytest.approx([0.1, 0.1, 0.1])


def test_calls_that_wait_in_the_service_do_not_count_as_sent() -> None:
    traffic = Traffic()
    payload = Payload(MB, 0)
    first = traffic.begin(payload, sent_unix_s=0.0)
    second = traffic.begin(payload, sent_unix_s=5.0)
    assert traffic.end(second, Sample(payload, 0.1, 0.0), 9.0).send_s == pytest.approx(0.1)
    assert traffic.end(first, Sample(payload, 0.1, 0.0), 9.0).send_s == pytest.approx(0.1)
    assert traffic.payload == PING


@pytest.mark.parametrize(
    ("estimate", "age_s", "expected"),
    [
        (Estimate(), 0, 0),
        (Estimate((0.1,)), 0, 1 / 2),
        (Estimate((), (SECOND,)), 0, 1 / 2),
        (Estimate((), (SECOND,) * 2), 0, 2 / 3),
        (Estimate((), (SECOND,) * 5), 0, 5 / 6),
        (Estimate((), (SECOND,) * 5), TRUST_HALF_LIFE_S, 5 / 12),
        (Estimate((), (SECOND,) * 5), -3, 5 / 6),
    ],
)
def test_few_samples_and_old_ones_are_trusted_less(
    estimate: Estimate, age_s: float, expected: float
) -> None:
    assert trust(estimate, age_s) == pytest.approx(expected)


def test_a_round_trip_does_not_renew_the_trust_in_a_rate() -> None:
    estimate = learn(learned(sent_at(10)), Sample(PING, 0.0, 0.01), 500.0)
    assert estimate.measured_unix_s == 0.0


@pytest.mark.parametrize(("look_mb_s", "samples_left"), [(5, 2), (15, 2), (25, 1)])
def test_a_probe_that_is_much_faster_replaces_earlier_samples(
    look_mb_s: float, samples_left: int
) -> None:
    before = learned(sent_at(10))
    look = Sample(Payload(64_000, 0), 0.064 / look_mb_s, 0.0)
    assert len(merge_probe(before, learn(before, look, 1.0)).up) == samples_left
