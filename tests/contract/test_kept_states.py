"""A sweep of parameters over a real service: each transport, a restart, and two callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samcourier.connection import connected
from samcourier.errors import RequestRefused
from samcourier.images.planes import Plane
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import Attempt
from samcourier.segmentation.events import Event
from samcourier.segmentation.plane import KeptState, PlaneCaller
from samcourier.segmentation.sweep import segment_sets
from samcourier.transports import Endpoint
from samservice.contract.image_reference import image_reference, pixels_sha256
from samservice.hypha.connection import connect
from samservice.server.serve import Address, ServeSettings, serve

from ..unit.service.server.staged_engine import StagedEngine
from .real_world import BUILD

pytestmark = pytest.mark.live

SERVICE = "states"
IMAGE = np.random.default_rng(5).integers(1, 4000, (600, 700), np.uint16)
PLANE = Plane(IMAGE, "YX", pixels_sha256(IMAGE, "YX"))
SETS = [{"level": 300 * n, "scale": 1 + n // 9} for n in range(12)]


class Host:
    """A service with stages in this process, which may be started anew under the same id."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.engine = StagedEngine()
        self.endpoint = endpoint
        self._settings = ServeSettings(
            endpoint.server_url,
            endpoint.token,
            endpoint.workspace,
            SERVICE,
            visibility="public",
            client_id="states-host",
        )

    async def start(self) -> None:
        ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

        async def publish(address: Address, _: object) -> None:
            ready.set_result(address)

        self._stop = asyncio.Event()
        self._serving = asyncio.ensure_future(
            serve(self.engine, self._settings, on_ready=publish, stop=self._stop)
        )
        await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        address = ready.result()
        self.endpoint = replace(
            self.endpoint, service_id=address.service_id, rtc_service_id=address.rtc_service_id
        )

    async def stop(self) -> None:
        self._stop.set()
        await self._serving


@pytest.fixture
async def host(live_endpoint: Endpoint) -> AsyncIterator[Host]:
    made = Host(live_endpoint)
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def calling(endpoint: Endpoint, transport: str, folder: Path) -> AsyncIterator[PlaneCaller]:
    with ConnectionJournal(folder / "journal.jsonl") as journal:
        async with connected([BUILD[transport](endpoint)], journal, 1) as (manager, description):
            assert description.states
            yield PlaneCaller(manager, description)


def is_equal(mask: object, parameters: dict[str, int]) -> bool:
    scaled = IMAGE.astype(np.int64) * parameters["scale"]
    return np.array_equal(np.asarray(mask), np.where(scaled > parameters["level"], scaled.max(), 0))


@pytest.mark.parametrize("transport", BUILD)
async def test_a_sweep_has_the_labels_of_whole_calls(
    host: Host, transport: str, tmp_path: Path
) -> None:
    events: list[Event] = []
    async with calling(host.endpoint, transport, tmp_path) as caller:
        found = [each async for each in segment_sets(caller, PLANE, SETS, events.append)]
        # 9 sets have one scale, 3 another.
        assert host.engine.entered["infer"] == 2
        whole = [await caller.segment(PLANE, each, events.append) for each in SETS]
    for parameters, swept, expected in zip(SETS, found, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(swept.mask), np.asarray(expected.mask))
        assert is_equal(swept.mask, parameters)
    attempts = [each for each in events if isinstance(each, Attempt)]
    assert [each.outcome for each in attempts] == ["ok"] * 24
    assert sum(each.bytes.up > 0 for each in attempts) == 2 + 12


@pytest.mark.parametrize("transport", BUILD)
async def test_a_service_that_was_started_anew_gets_the_image_again(
    host: Host, transport: str, tmp_path: Path
) -> None:
    # So many that the first service has not answered all of them when it is stopped.
    sets = [{"level": 50 * n, "scale": 1} for n in range(60)]
    count = 0
    async with calling(host.endpoint, transport, tmp_path) as caller:
        async for segmented in segment_sets(caller, PLANE, sets, lambda _: None):
            assert is_equal(segmented.mask, sets[count])
            count += 1
            if count == 2:
                await host.stop()
                await host.start()
        assert count == len(sets)
        assert host.engine.entered["infer"] == 2


async def test_a_caller_does_not_get_the_state_of_another(
    host: Host, live_endpoint: Endpoint, tmp_path: Path
) -> None:
    owner = await connect(
        live_endpoint.server_url, token=live_endpoint.token, workspace=live_endpoint.workspace
    )
    stranger = await connect(live_endpoint.server_url)
    reference = image_reference(PLANE.pixels_sha256, IMAGE.shape)
    try:
        token = await owner.generate_token({"expires_in": 3600})
        second = await connect(
            live_endpoint.server_url, token=token, workspace=live_endpoint.workspace
        )
        assert second.config["user"]["id"] != owner.config["user"]["id"]
        for number, caller in enumerate((owner, second, stranger), 1):
            service = await caller.get_service(host.endpoint.service_id)
            with pytest.raises(Exception, match="StateNotKept"):
                await service.segment_all(reference, axes="YX")
            answer = await service.segment_all(IMAGE, axes="YX", keep_state=True)
            assert answer.max() == IMAGE.max()
            assert host.engine.entered["infer"] == number
        again = await (await second.get_service(host.endpoint.service_id)).segment_all(
            reference, axes="YX", level=7
        )
        assert again["object_count"] == 1
        await second.disconnect()
    finally:
        await owner.disconnect()
        await stranger.disconnect()


async def test_a_reference_to_what_is_not_kept_is_told_from_a_failure(
    host: Host, tmp_path: Path
) -> None:
    async with calling(host.endpoint, "http", tmp_path) as caller:
        reference = image_reference("0" * 64, IMAGE.shape)
        kept = KeptState(None)
        lost = await caller.segment_kept(PLANE, reference, kept, SETS[0], lambda _: None)
        assert lost is None
        with pytest.raises(RequestRefused, match="unknown"):
            await caller.segment_kept(PLANE, reference, kept, {"width": 1}, lambda _: None)
