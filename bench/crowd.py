"""Many batches at one slow service: what do they ask it, and is any of their connections lost?

Each batch has a connection of its own in this process, over WebSocket, and keeps three small images
at a service that takes ``--work-s`` seconds an image. Hypha closes a connection that sends more
than 200 messages a second for long, and the answers to all leave the service over one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tifffile
import uvloop
from canned_service import running_canned_service
from figures import Figures

from samcourier.connection import ConnectionManager, connected
from samcourier.connection.call import Call, CallFailed
from samcourier.connection.throughput import Payload
from samcourier.errors import CourierError
from samcourier.results.connection_log import ConnectionJournal
from samcourier.transports import Endpoint, HyphaSession, WebSocketTransport
from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array, packed_nbytes

IMAGES_UNDER_WAY = 3
#: Batches start one after the other, as Snakemake's do.
START_PAUSE_S = 0.05


class CountedWebSocket(WebSocketTransport):
    """Counts the calls of all batches by method."""

    calls: ClassVar[Counter[str]] = Counter()

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        self.calls[method] += 1
        return await super().call(method, arguments, timeout_s)


async def take_count(value: Any) -> int:
    return int(value["object_count"])


def image_call() -> Call[int]:
    image = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    packed = pack_array(image, FAST_IMAGE_CODEC)
    payload = Payload(packed_nbytes(packed), 100)
    return Call("segment_all", {"image_or_embedding": packed}, payload, take_count)


async def keep_calling(manager: ConnectionManager, call: Call[int], seen: Counter[str]) -> None:
    while True:
        try:
            answer = await manager.call(call)
            attempts = answer.attempts
            seen["done"] += 1
        except CallFailed as failed:
            attempts = failed.attempts
            seen["failed"] += 1
        for attempt in attempts:
            if attempt.error is not None:
                seen[attempt.error.kind] += 1


async def batch(endpoint: Endpoint, journal: Path, end_s: float, seen: Counter[str]) -> None:
    transport = CountedWebSocket(HyphaSession(endpoint))
    try:
        with ConnectionJournal(journal) as lines:
            async with connected([transport], lines, expected_calls=1000) as (manager, _):
                calling = [
                    asyncio.ensure_future(keep_calling(manager, image_call(), seen))
                    for _ in range(IMAGES_UNDER_WAY)
                ]
                await asyncio.sleep(max(end_s - time.monotonic(), 0.0))
                for task in calling:
                    task.cancel()
                await asyncio.gather(*calling, return_exceptions=True)
    except CourierError:
        seen["batches_ended"] += 1


async def crowd(
    endpoint: Endpoint, batch_count: int, seconds: float, scratch: Path
) -> Counter[str]:
    seen: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    batches = []
    for number in range(batch_count):
        journal = scratch / f"{number}.jsonl"
        batches.append(asyncio.ensure_future(batch(endpoint, journal, end_s, seen)))
        await asyncio.sleep(START_PAUSE_S)
    await asyncio.gather(*batches)
    for number in range(batch_count):
        lines = (scratch / f"{number}.jsonl").read_text().splitlines()
        seen["ways_left"] += sum(json.loads(line)["event"] == "left" for line in lines)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--work-s", type=float, default=10.0)
    options = parser.parse_args()
    figures = Figures("crowd")
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as name:
        scratch = Path(name)
        tifffile.imwrite(scratch / "mask.tif", np.zeros((256, 256), np.uint16))
        with running_canned_service(
            scratch / "mask.tif", scratch, "--work-s", options.work_s
        ) as endpoint:
            seen = uvloop.run(crowd(endpoint, options.batches, options.seconds, scratch))
    figures.add("batches", options.batches, "batches")
    figures.add("images_done", seen["done"], "images")
    figures.add("probes", CountedWebSocket.calls["probe"] / options.seconds, "1/s")
    figures.add("images_sent", CountedWebSocket.calls["segment_all"], "images")
    figures.add("refused_as_full", seen["overload"], "attempts")
    figures.add("lost_on_the_way", seen["transport"] + seen["service"], "attempts")
    figures.add("images_failed", seen["failed"], "images")
    figures.add("ways_left", seen["ways_left"], "connections")
    figures.add("batches_ended", seen["batches_ended"], "batches")
    figures.publish()


if __name__ == "__main__":
    main()
