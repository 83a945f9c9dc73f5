"""A real service that is slower than callers are patient: each image is worked on once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.connection import connected
from samcourier.connection.call import Answer, Call
from samcourier.connection.throughput import Payload
from samcourier.connection.time_limits import Policy
from samcourier.results.connection_log import ConnectionJournal
from samcourier.transports import Endpoint, Transport
from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array
from samservice.engines.watershed import WatershedEngine
from samservice.server.app import Limits
from samservice.server.serve import Address, ServeSettings, serve

from .real_world import BUILD

pytestmark = pytest.mark.live

BATCHES, IMAGES_OF_A_BATCH = 4, 3
WORK_S = 1.0
#: Long enough for any one image on a busy machine, far too short for twelve.
POLICY = Policy(attempt_timeout_s=5.5, image_timeout_s=60.0)
#: So that some images find no place at first.
LIMITS = Limits(max_queue=10)


class SlowEngine(WatershedEngine):
    """Takes its time, and counts."""

    image_count = 0

    def segment(self, image: np.ndarray, axes: str, *others: Any) -> np.ndarray:
        self.image_count += 1
        time.sleep(WORK_S)
        return np.ones(image.shape, np.uint32)


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
async def endpoint(live_endpoint: Endpoint, engine: SlowEngine) -> AsyncIterator[Endpoint]:
    ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def note(address: Address, server: Any) -> None:
        ready.set_result(address)

    settings = ServeSettings(
        live_endpoint.server_url,
        live_endpoint.token,
        live_endpoint.workspace,
        "slow",
        limits=LIMITS,
    )
    serving = asyncio.ensure_future(serve(engine, settings, on_ready=note, stop=stop))
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    address = ready.result()
    yield replace(
        live_endpoint, service_id=address.service_id, rtc_service_id=address.rtc_service_id
    )
    stop.set()
    await serving


async def take_count(value: Any) -> int:
    return int(value["object_count"])


async def batch(transport: Transport, journal: Path) -> list[Answer[int]]:
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    arguments = {"image_or_embedding": pack_array(image, FAST_IMAGE_CODEC)}
    call = Call("segment_all", arguments, Payload(image.nbytes, 100), take_count)
    with ConnectionJournal(journal) as lines:
        async with connected([transport], lines, IMAGES_OF_A_BATCH, POLICY) as (manager, _):
            calls = (manager.call(call) for _ in range(IMAGES_OF_A_BATCH))
            return await asyncio.gather(*calls)


@pytest.mark.parametrize("name", BUILD)
async def test_many_jobs_at_a_slow_service_wait_their_turn(
    endpoint: Endpoint, engine: SlowEngine, name: str, tmp_path: Path
) -> None:
    batches = await asyncio.gather(
        *(batch(BUILD[name](endpoint), tmp_path / f"{n}.jsonl") for n in range(BATCHES))
    )
    answers = [answer for each in batches for answer in each]
    assert [answer.value for answer in answers] == [1] * len(answers)
    failures = [
        attempt.error.kind for each in answers for attempt in each.attempts if attempt.error
    ]
    assert set(failures) <= {"overload"}, failures
    assert engine.image_count == len(answers)
    slowest_s = max(attempt.seconds.total for each in answers for attempt in each.attempts)
    assert slowest_s > POLICY.attempt_timeout_s, "nobody waited longer than one call may take"
