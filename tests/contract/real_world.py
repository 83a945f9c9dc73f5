"""Shared by the tests of real failures: the scripted service, and how a failure is judged."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from samcourier.errors import CourierError
from samcourier.transports import (
    Endpoint,
    HttpTransport,
    HyphaSession,
    Transport,
    WebRTCTransport,
    WebSocketTransport,
)

BUILD: dict[str, Callable[[Endpoint], Transport]] = {
    "websocket": lambda endpoint: WebSocketTransport(HyphaSession(endpoint)),
    "webrtc": lambda endpoint: WebRTCTransport(HyphaSession(endpoint)),
    "http": HttpTransport,
}

ROOT_TOKEN = "a-root-token-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz-9876"
CLIENT_ID = "scripted-host"

#: Against hanging: what is given to all that has to succeed, or to fail long before.
OPEN_TIMEOUT_S = 60.0
#: What an attempt that must fail is given.
DEADLINE_S = 0.7
#: Given to what has to be noticed without waiting for a deadline.
AT_ONCE_S = 0.0
#: What may come on top of a deadline on a busy machine, closing included. What a failure or a close
#: must not wait for takes longer: hypha-rpc's own timers 30 s, OPEN_TIMEOUT_S 60.
MARGIN_S = 15.0


@asynccontextmanager
async def scripted_service(
    server_url: str, client_id: str = CLIENT_ID
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Endpoint]]:
    """Run the scripted service in a process; yield it and where its service is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("scripted_service.py")),
        server_url,
        client_id,
        env=os.environ | {"SCRIPTED_TOKEN": ROOT_TOKEN},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            workspace = (await process.stdout.readline()).decode().strip()
        assert workspace, "the scripted service did not start"
        prefix = f"{workspace}/{client_id}"
        yield (
            process,
            Endpoint(
                server_url, workspace, f"{prefix}:scripted", f"{prefix}:scripted-rtc", ROOT_TOKEN
            ),
        )
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def failure_within(
    deadline_s: float, attempt: Awaitable[object], margin_s: float = MARGIN_S
) -> CourierError:
    """Return the failure that ``attempt`` ends in, which must come in time."""
    start_s = time.monotonic()
    with pytest.raises(CourierError) as caught:
        await attempt
    took_s = time.monotonic() - start_s
    assert took_s < deadline_s + margin_s, f"{caught.value} came only after {took_s:.1f} s"
    return caught.value


async def assert_works(transport: Transport) -> None:
    """Open anew, and carry something both ways."""
    await transport.open(OPEN_TIMEOUT_S)
    answer = await transport.call(
        "probe", {"payload": b"x" * 100_000, "reply_bytes": 100_000}, OPEN_TIMEOUT_S
    )
    assert (answer["received_bytes"], len(answer["data"])) == (100_000, 100_000)
