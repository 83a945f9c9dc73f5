"""How often a data channel over aiortc acknowledges what it receives."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiortc.rtcsctptransport import RTCSctpTransport

from samservice.webrtc import aiortc_peer as rtc_aiortc
from samservice.webrtc.aiortc_peer import DelayedSacks


@dataclass
class Sctp:
    """As much of aiortc's transport as acknowledges."""

    sent: int = 0
    _sack_needed: bool = False
    _sack_misordered: set[int] = field(default_factory=set)
    _sack_duplicates: list[int] = field(default_factory=list)

    async def _send_sack(self) -> None:
        self.sent += 1
        self._sack_needed = False

    async def receive(self) -> None:
        """Do what follows a packet of data."""
        self._sack_needed = True
        await self._send_sack()


@pytest.mark.parametrize(
    ("packets", "odd", "sent_at_once"),
    [
        (1, {}, 0),
        (2, {}, 1),
        (5, {}, 2),
        (3, {"_sack_misordered": {7}}, 3),
        (3, {"_sack_duplicates": [7]}, 3),
    ],
)
async def test_every_second_packet_is_acknowledged_and_odd_ones_at_once(
    monkeypatch: pytest.MonkeyPatch, packets: int, odd: dict[str, Any], sent_at_once: int
) -> None:
    monkeypatch.setattr(rtc_aiortc, "SACK_DELAY_S", 60)
    sctp = Sctp(**odd)
    sacks = DelayedSacks(sctp)
    for _ in range(packets):
        await sctp.receive()
    assert (sctp.sent, sctp._sack_needed) == (sent_at_once, False)
    sacks.cancel()


async def test_a_single_packet_is_acknowledged_soon() -> None:
    sctp = Sctp()
    DelayedSacks(sctp)
    await sctp.receive()
    async with asyncio.timeout(5):
        while not sctp.sent:
            await asyncio.sleep(0.01)


def test_aiortc_still_acknowledges_every_packet() -> None:
    source = inspect.getsource(RTCSctpTransport._handle_data)
    assert "if self._sack_needed:\n            await self._send_sack()" in source, (
        "aiortc may delay acknowledgements itself now: DelayedSacks can go"
    )
