"""How large the chunks of a large message are, by the pace at which the last one left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypha_rpc.rpc import RPC

from samservice.hypha.guarded_rpc import SLOW_LINK_CHUNK_BYTES, GuardedRPC


class Connection:
    """A connection over which nothing is sent."""

    manager_id = None

    async def emit_message(self, _: bytes) -> None:
        pass

    async def disconnect(self, reason: str | None = None) -> None:
        pass

    def on_message(self, _: Any) -> None:
        pass

    on_connected = on_disconnected = on_message


@pytest.mark.parametrize(
    ("own_chunk_bytes", "seconds_taken", "expected"),
    [
        (500_000, [0.0, 0.0], [500_000, 500_000]),
        (500_000, [0.05, 0.0, 0.0], [500_000, SLOW_LINK_CHUNK_BYTES, 500_000]),
        # What a data channel takes is less.
        (60_000, [0.05, 0.0], [60_000, 60_000]),
    ],
)
async def test_a_slow_link_gets_smaller_chunks(
    monkeypatch: pytest.MonkeyPatch,
    own_chunk_bytes: int,
    seconds_taken: list[float],
    expected: list[int],
) -> None:
    seen: list[int] = []

    async def send(rpc: RPC, *_: Any) -> None:
        clock.now_s += seconds_taken[len(seen)]
        seen.append(rpc._long_message_chunk_size)

    clock = SimpleNamespace(now_s=0.0, monotonic=lambda: clock.now_s)
    monkeypatch.setattr("samservice.hypha.guarded_rpc.time", clock)
    monkeypatch.setattr(RPC, "_send_chunks", send)
    rpc = GuardedRPC(
        Connection(), client_id="a", long_message_chunk_size=own_chunk_bytes, logger=None
    )
    for _ in seconds_taken:
        await rpc._send_chunks(bytes(100_000), "b", None)
    await rpc.disconnect()
    assert seen == expected
    assert rpc._long_message_chunk_size == own_chunk_bytes
