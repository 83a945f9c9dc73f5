"""Two real replicas of a service behind one name: they share the work, and one may be killed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.connection import ConnectionManager, connected
from samcourier.connection.call import Answer, Call
from samcourier.connection.throughput import Payload
from samcourier.files.atomic import write_private
from samcourier.results.connection_log import ConnectionJournal
from samcourier.transports import Endpoint, Replicas
from samservice.contract.wire import pack_array, packed_nbytes

pytestmark = pytest.mark.live

NAME = "twice"
READY_TIMEOUT_S = 60


async def serve_replica(endpoint: Endpoint, directory: Path) -> asyncio.subprocess.Process:
    """Start `samcourier serve` and return it when it is ready."""
    write_private(directory / "token", endpoint.token or "")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "samcourier.cli", "serve", "--service-id", NAME),
        *("--server-url", endpoint.server_url, "--token-file", str(directory / "token")),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(READY_TIMEOUT_S):
        while b"ready:" not in (line := await process.stderr.readline()):
            assert line, "the replica ended"
    return process


@pytest.fixture
async def replicas(
    live_endpoint: Endpoint, tmp_path: Path
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    processes = await asyncio.gather(*(serve_replica(live_endpoint, tmp_path) for _ in range(2)))
    yield list(processes)
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


def image(number: int) -> dict[str, Any]:
    pixels = np.random.default_rng(number).integers(0, 4000, (512, 512)).astype(np.uint16)
    pixels[50:90, 50:90] += 20_000
    return pack_array(pixels, "blosc-lz4")


async def segment(manager: ConnectionManager, number: int) -> Answer[int]:
    packed = image(number)

    async def object_count(value: Any) -> int:
        return int(value["object_count"])

    payload = Payload(packed_nbytes(packed), 1000)
    arguments = {"image_or_embedding": packed}
    return await manager.call(Call("segment_all", arguments, payload, object_count))


async def test_replicas_share_the_work_and_one_may_be_killed(
    live_endpoint: Endpoint, replicas: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    found = Replicas(replace(live_endpoint, service_id=NAME, rtc_service_id=f"{NAME}-rtc"))
    with ConnectionJournal(tmp_path / "journal.jsonl") as journal:
        async with connected(found, journal, 60) as (manager, description):
            assert description.engine == "watershed"
            async with asyncio.timeout(READY_TIMEOUT_S):
                while manager.capacity < 6:
                    await asyncio.sleep(0.05)
            together = await asyncio.gather(*(segment(manager, number) for number in range(24)))
            shares = Counter(answer.attempts[-1].replica for answer in together)
            assert len(shares) == 2
            assert min(shares.values()) >= 4, shares

            rest = [asyncio.ensure_future(segment(manager, number)) for number in range(24)]
            while not any(each.done() for each in rest):
                await asyncio.sleep(0.01)
            replicas[0].kill()
            async with asyncio.timeout(60):
                alone = await asyncio.gather(*rest)
    assert [each.value for each in alone] == [each.value for each in together]
    lost = [attempt for each in alone for attempt in each.attempts if attempt.outcome == "failed"]
    # What was under way at the killed replica, each over no more ways than it has.
    assert len({attempt.replica for attempt in lost}) <= 1
    assert len(lost) <= 9, lost
