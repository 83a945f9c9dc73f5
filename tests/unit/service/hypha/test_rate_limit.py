"""Messages follow one another no faster than Hypha takes them of one connection."""

from __future__ import annotations

import pytest

from samservice.hypha.rate_limit import BURST_MESSAGES, MESSAGES_PER_S, MessageRateLimiter


class Clock:
    """Stands still until a test moves it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waits(limiter: MessageRateLimiter, count: int) -> list[float]:
    return [limiter._reserve_s() for _ in range(count)]


def test_a_burst_passes_and_the_rest_follow_in_order_at_the_rate(clock: Clock) -> None:
    limiter = MessageRateLimiter(clock)
    assert waits(limiter, BURST_MESSAGES) == [0.0] * BURST_MESSAGES
    expected = [number / MESSAGES_PER_S for number in (1, 2, 3)]
    assert waits(limiter, 3) == pytest.approx(expected)


def test_after_a_pause_as_many_more_pass_and_no_more_than_a_burst(clock: Clock) -> None:
    limiter = MessageRateLimiter(clock)
    waits(limiter, BURST_MESSAGES)
    clock.now_s += 1.0
    passed = waits(limiter, int(MESSAGES_PER_S) + 1)
    assert passed[:-1] == [0.0] * int(MESSAGES_PER_S)
    assert passed[-1] > 0
    clock.now_s += 3600
    assert waits(limiter, BURST_MESSAGES + 1)[-1] > 0


def test_hypha_s_own_bucket_never_runs_dry(clock: Clock) -> None:
    # As hypha.websocket counts, by default: 200 a second, 2000 at once.
    limiter, left = MessageRateLimiter(clock), 2000.0
    for _ in range(20_000):
        wait_s = limiter._reserve_s()
        clock.now_s += wait_s
        left = min(left + 200.0 * wait_s, 2000.0) - 1
        assert left > 0
