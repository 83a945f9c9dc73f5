"""Which replica takes the next call is a table: how busy each one is, and how fast."""

from __future__ import annotations

import pytest

from samcourier.connection.load_balancing import Load, next_replica


def load(service_s: float | None, in_flight: int = 0, limit: int = 3, parallel: int = 1) -> Load:
    return Load(
        None if service_s is None else 0.1, service_s, in_flight, limit, in_parallel=parallel
    )


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([load(1)], 0),
        ([load(2), load(1)], 1),
        # The slower one takes a call as soon as it would answer first.
        ([load(3), load(1, in_flight=1)], 1),
        ([load(2), load(1, in_flight=2)], 0),
        ([load(1, in_flight=1, parallel=2), load(1, in_flight=1)], 0),
        # All alike: the idle one, and then the first.
        ([load(1, in_flight=1), load(1)], 1),
        ([load(1), load(1)], 0),
        # Nothing is known: every replica gets one call, and no second one before it answers.
        ([load(None), load(None)], 0),
        ([load(None, in_flight=1), load(None)], 1),
        ([load(None, in_flight=1), load(9)], 1),
        ([load(None, in_flight=1), load(None, in_flight=2)], 0),
        # Full ones take nothing.
        ([load(1, in_flight=3), load(9)], 1),
        ([load(1, in_flight=3), load(1, in_flight=3)], None),
        ([load(1, in_flight=1, limit=1)], None),
        ([], None),
    ],
)
def test_the_next_replica(loads: list[Load], expected: int | None) -> None:
    assert next_replica(loads) == expected
