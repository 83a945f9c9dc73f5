"""What a service does when its Hypha server goes away."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from samservice import serve
from samservice.errors import NotConnected


def server(state: str, closed: bool = False) -> Any:
    """Return as much of hypha-rpc's server object as tells how its connection is."""
    websocket = SimpleNamespace(state=SimpleNamespace(name=state))
    return SimpleNamespace(
        rpc=SimpleNamespace(_connection=SimpleNamespace(_websocket=websocket, _closed=closed))
    )


async def test_a_server_that_is_lost_and_back_is_told_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "LOOK_S", 0.01)
    stop, connected = asyncio.Event(), server("OPEN")
    with caplog.at_level(logging.WARNING):
        staying = asyncio.create_task(serve.stay(connected, "http://hypha", stop))
        for state in ("CLOSED", "OPEN"):
            connected.rpc._connection._websocket.state.name = state
            told = len(caplog.messages)
            async with asyncio.timeout(5):
                while len(caplog.messages) == told:
                    await asyncio.sleep(0.01)
        assert not staying.done()
        stop.set()
        await staying
    assert caplog.messages == ["http://hypha is lost, trying again", "http://hypha is back"]


async def test_a_server_that_refuses_the_service_ends_it() -> None:
    with pytest.raises(NotConnected, match="does not take the service back"):
        await serve.stay(server("CLOSED", closed=True), "http://hypha", asyncio.Event())
