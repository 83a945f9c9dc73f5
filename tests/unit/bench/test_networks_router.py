"""The benchmark's router: when a packet arrives, which are lost, what a reset says."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench" / "networks"))

from router import RST_ACK, TCP, Line, Treatment, checksum, resets

PACKET_BYTES = 1000
#: 8 Mbit/s carry a packet of 1000 bytes in a millisecond.
RATE_MBIT = 8.0
UDP = 17
SYN = 0x02
PUSH_ACK = 0x18


def arrivals_ms(treatment: Treatment, given_at_ms: list[float]) -> list[float | None]:
    """Return when packets come out of a fresh line, None for those that never do."""
    line = Line(treatment, random.Random(1))
    arrivals = [line.arrival_s(ms / 1000, PACKET_BYTES) for ms in given_at_ms]
    return [None if seconds is None else seconds * 1000 for seconds in arrivals]


@pytest.mark.parametrize(
    ("treatment", "given_at_ms", "expected_ms"),
    [
        (Treatment(), [0, 0, 5], [0, 0, 5]),
        (Treatment(delay_ms=20), [0, 3], [20, 23]),
        (Treatment(rate_mbit=RATE_MBIT), [0, 0, 0], [1, 2, 3]),
        (Treatment(rate_mbit=RATE_MBIT), [0, 10, 10], [1, 11, 12]),
        (Treatment(rate_mbit=RATE_MBIT, delay_ms=20), [0, 0], [21, 22]),
        (Treatment(loss_share=1.0), [0, 1], [None, None]),
        (Treatment(mode="drop"), [0, 1], [None, None]),
    ],
)
def test_when_packets_arrive(
    treatment: Treatment, given_at_ms: list[float], expected_ms: list[float | None]
) -> None:
    assert arrivals_ms(treatment, given_at_ms) == pytest.approx(expected_ms)


def test_a_full_queue_loses_what_comes_last_and_goes_on_at_its_rate() -> None:
    arrived = arrivals_ms(Treatment(rate_mbit=RATE_MBIT), [0.0] * 200)
    carried = [ms for ms in arrived if ms is not None]
    assert 40 <= len(carried) <= 60
    assert arrived == pytest.approx([*range(1, len(carried) + 1), *[None] * (200 - len(carried))])


def test_packets_do_not_overtake_when_the_delay_shrinks() -> None:
    line = Line(Treatment(delay_ms=50), random.Random(1))
    first_s = line.arrival_s(0.0, PACKET_BYTES)
    line.treatment = Treatment(delay_ms=1)
    second_s = line.arrival_s(0.01, PACKET_BYTES)
    assert first_s is not None and second_s is not None and second_s >= first_s


def test_the_share_lost_is_the_share_asked_for() -> None:
    arrived = arrivals_ms(Treatment(loss_share=0.1), list(range(10_000)))
    assert arrived.count(None) == pytest.approx(1000, rel=0.15)


def packet(protocol: int, flags: int, payload: bytes = b"") -> bytes:
    """Return an IPv4 packet from 10.0.0.1:1111 to 10.0.0.2:2222, sequence 7, acknowledging 9."""
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    tcp = struct.pack("!HHIIBBHHH", 1111, 2222, 7, 9, 5 << 4, flags, 0, 0, 0) + payload
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, protocol, 0) + addresses + tcp


@pytest.mark.parametrize(
    ("flags", "payload", "acknowledged"),
    [(PUSH_ACK, b"abcd", 11), (PUSH_ACK, b"", 7), (SYN, b"", 8), (PUSH_ACK | 0x01, b"ab", 10)],
)
def test_a_reset_reaches_both_ends_with_numbers_they_accept(
    flags: int, payload: bytes, acknowledged: int
) -> None:
    both = resets(packet(TCP, flags, payload))
    assert both is not None
    to_sender, to_receiver = both
    assert struct.unpack_from("!HHIIBB", to_sender, 20) == (
        (2222, 1111, 9, acknowledged, 5 << 4, RST_ACK)
    )
    assert struct.unpack_from("!HHIIBB", to_receiver, 20) == (1111, 2222, 7, 9, 5 << 4, RST_ACK)
    for made in both:
        pseudo_header = made[12:20] + struct.pack("!BBH", 0, TCP, len(made) - 20)
        assert checksum(made[:20]) == 0
        assert checksum(pseudo_header + made[20:]) == 0


@pytest.mark.parametrize(
    "other", [packet(UDP, 0), packet(TCP, RST_ACK), b"\x60" + packet(TCP, SYN)[1:]]
)
def test_only_tcp_that_is_no_reset_is_reset(other: bytes) -> None:
    assert resets(other) is None
