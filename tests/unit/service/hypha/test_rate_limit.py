"""Messages follow one another no faster than Hypha takes them of one connection."""

from __future__ import annotations

import pytest

from samservice.hypha.rate_limit import BURST_MESSAGES, MESSAGES_PER_S, MessagePace


class Clock:
    """Stands still until a test moves it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waits(pace: MessagePace, count: int) -> list[float]:
    return [pace._reserve_s() for _ in range(count)]


def test_a_burst_passes_and_the_rest_follow_in_order_at_the_rate(clock: Clock) -> None:
    pace = MessagePace(clock)
    assert waits(pace, BURST_MESSAGES) == [0.0] * BURST_MESSAGES
    expected = [number / MESSAGES_PER_S for number in (1, 2, 3)]
    assert waits(pace, 3) == pytest.approx(expected)


def test_after_a_pause_as_many_more_pass_and_no_more_than_a_burst(clock: Clock) -> None:
    pace = MessagePace(clock)
    waits(pace, BURST_MESSAGES)
    clock.now_s += 1.0
    passed = waits(pace, int(MESSAGES_PER_S) + 1)
    assert passed[:-1] == [0.0] * int(MESSAGES_PER_S)
    assert passed[-1] > 0
    clock.now_s += 3600
    assert waits(pace, BURST_MESSAGES + 1)[-1] > 0


def test_hypha_s_own_bucket_never_runs_dry(clock: Clock) -> None:
    # As hypha.websocket counts, by default: 200 a second, 2000 at once.
    pace, left = MessagePace(clock), 2000.0
    for _ in range(20_000):
        wait_s = pace._reserve_s()
        clock.now_s += wait_s
        left = min(left + 200.0 * wait_s, 2000.0) - 1
        assert left > 0
