"""The client keeps a service that works in stages busy, over every transport, and shares it."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.connection import ConnectionManager, connected
from samcourier.connection.call import Call
from samcourier.connection.flow import TRAVELLING
from samcourier.connection.throughput import Payload
from samcourier.results.connection_log import ConnectionJournal
from samcourier.transports import Endpoint, Transport
from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array
from samservice.engines.stages import Prepared, segment_in_stages
from samservice.engines.watershed import WatershedEngine
from samservice.server.app import Limits
from samservice.server.serve import Address, ServeSettings, serve

from .real_world import BUILD

pytestmark = pytest.mark.live

DEVICE_S, FINISH_S, FINISH_THREADS = 0.02, 0.3, 8
IMAGES = 60


class StagedEngine(WatershedEngine):
    """A device stage and finish stages that take their time and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._now = 0
        self.most_finishing = 0

    def segment(self, *arguments: Any) -> np.ndarray:
        return segment_in_stages(self, *arguments)

    def prepare(self, image: np.ndarray, *others: Any) -> Prepared:
        return Prepared(image)

    def infer(self, prepared: Sequence[Prepared]) -> list[np.ndarray]:
        time.sleep(DEVICE_S * len(prepared))
        return [each.content for each in prepared]

    def finish(self, state: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
        with self._lock:
            self._now += 1
            self.most_finishing = max(self.most_finishing, self._now)
        time.sleep(FINISH_S)
        with self._lock:
            self._now -= 1
        return np.ones(state.shape, np.uint32)

    def max_batch(self, batch_key: Any) -> int:
        return 1

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        return 1 << 20


@pytest.fixture
def engine() -> StagedEngine:
    return StagedEngine()


@pytest.fixture
async def endpoint(live_endpoint: Endpoint, engine: StagedEngine) -> AsyncIterator[Endpoint]:
    ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def note(address: Address, server: Any) -> None:
        ready.set_result(address)

    settings = ServeSettings(
        live_endpoint.server_url,
        live_endpoint.token,
        live_endpoint.workspace,
        "staged",
        limits=Limits(finish_threads=FINISH_THREADS, max_queue=64),
    )
    serving = asyncio.ensure_future(serve(engine, settings, on_ready=note, stop=stop))
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    address = ready.result()
    yield replace(
        live_endpoint, service_id=address.service_id, rtc_service_id=address.rtc_service_id
    )
    stop.set()
    await serving


async def take(value: Any) -> dict[str, float]:
    return dict(value["seconds"])


async def send(manager: ConnectionManager) -> tuple[list[int], list[dict[str, float]]]:
    """Send all images, as many at once as the manager takes; return how many, and all seconds."""
    image = pack_array(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), FAST_IMAGE_CODEC)
    call = Call("segment_all", {"image_or_embedding": image}, Payload(8192, 100), take)
    waiting: set[asyncio.Task[Any]] = set()
    at_once: list[int] = []
    left, found = IMAGES, []
    while left or waiting:
        while left and len(waiting) < manager.capacity:
            waiting.add(asyncio.ensure_future(manager.call(call)))
            left -= 1
        at_once.append(len(waiting))
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        found += [task.result().value for task in done]
    return at_once, found


async def job(transport: Transport, journal: Path) -> tuple[list[int], list[dict[str, float]]]:
    with ConnectionJournal(journal) as lines:
        async with connected([transport], lines, IMAGES) as (manager, _):
            return await send(manager)


@pytest.mark.parametrize("name", BUILD)
async def test_a_client_sends_as_many_images_as_the_pipeline_needs(
    endpoint: Endpoint, engine: StagedEngine, name: str, tmp_path: Path
) -> None:
    at_once, seconds = await job(BUILD[name](endpoint), tmp_path / "a.jsonl")
    assert len(seconds) == IMAGES
    assert {"queue", "prepare", "infer", "finish"} <= seconds[0].keys()
    # It begins with the three of a pipeline that was not measured. On a busy machine the stages
    # take longer than they sleep, so not every thread is used at the same time.
    assert max(at_once) > 3 + TRAVELLING
    assert engine.most_finishing > 3


async def test_two_jobs_of_a_user_share_the_depth(endpoint: Endpoint, tmp_path: Path) -> None:
    alone, _ = await job(BUILD["websocket"](endpoint), tmp_path / "a.jsonl")
    both = await asyncio.gather(
        *(job(BUILD["websocket"](endpoint), tmp_path / f"{n}.jsonl") for n in "bc")
    )
    # While both run: one may begin late, and the last images of one find the other gone.
    shares = [statistics.median(at_once[10:30]) for at_once, _ in both]
    assert sum(shares) < 1.5 * max(alone)
