"""The app on a stock worker: what fails through its proxy, and works at our own endpoints."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypha_rpc import get_rtc_service

from samcourier.errors import Denied
from samcourier.transports import (
    Endpoint,
    HttpTransport,
    HyphaSession,
    Transport,
    WebRTCTransport,
    WebSocketTransport,
)
from samservice.contract.wire import FAST_IMAGE_CODEC, pack_array, unpack_array
from samservice.engines.watershed import WatershedEngine
from samservice.webrtc.endpoint import HOST_CANDIDATES_ONLY
from samservice.webrtc.peer import RTC_CHUNK_BYTES

from .conftest import OPEN, REPLICAS, RESTRICTED, App
from .real_worker import (
    CLASS,
    MAX_QUEUE,
    OWNER_EMAIL,
    Worker,
    app_status,
    connected,
    until_direct,
)

pytestmark = [pytest.mark.bioengine, pytest.mark.timeout(900)]

TIMEOUT_S = 60.0
SIDE = 2048
CELLS = 32 * 32
SMALL, CHUNKED = 10, 8 << 20

TRANSPORTS: dict[str, Callable[[Endpoint], Transport]] = {
    "websocket": lambda endpoint: WebSocketTransport(HyphaSession(endpoint)),
    "webrtc": lambda endpoint: WebRTCTransport(HyphaSession(endpoint)),
    "http": HttpTransport,
}


def cells() -> np.ndarray:
    """Return a 2048 x 2048 uint16 image with a bright square every 64 px."""
    image = np.full((SIDE, SIDE), 100, np.uint16)
    for y in range(16, SIDE, 64):
        for x in range(16, SIDE, 64):
            image[y : y + 24, x : x + 24] = 2000
    return image


async def opened(name: str, worker: Worker, app: App, token: str | None) -> Transport:
    transport = TRANSPORTS[name](worker.endpoint(app.direct_id, token))
    try:
        await transport.open(TIMEOUT_S)
    except BaseException:
        await transport.close()
        raise
    return transport


async def over_the_proxy_s_webrtc(server: Any, app: App, payload: bytes, **more: Any) -> Any:
    """Call probe at BioEngine's own WebRTC endpoint, with all that a caller can do for D3, D4."""
    connection = await get_rtc_service(
        server,
        app.proxy_rtc_id,
        {
            "context": {"user": server.config["user"]},
            "long_message_chunk_size": RTC_CHUNK_BYTES,
            "ice_servers": HOST_CANDIDATES_ONLY,
        },
    )
    try:
        service = await connection.get_service(app.name)
        return await asyncio.wait_for(service.probe(payload, **more), TIMEOUT_S)
    finally:
        await connection.disconnect()


@pytest.mark.parametrize(
    ("payload_bytes", "said"),
    [
        pytest.param(CHUNKED, "Context is required", id="D1"),
        pytest.param(SMALL, "missing 1 required keyword-only argument: 'context'", id="D2"),
    ],
)
async def test_webrtc_fails_on_the_proxy_s_endpoint(
    worker: Worker, apps: dict[str, App], payload_bytes: int, said: str
) -> None:
    async with connected(worker, worker.owner_token) as server:
        with pytest.raises(Exception, match=said):
            await over_the_proxy_s_webrtc(server, apps[OPEN], bytes(payload_bytes))


@pytest.mark.parametrize("packed", [False, True], ids=["ndarray", "packed"])
@pytest.mark.parametrize("name", TRANSPORTS)
async def test_our_endpoint_carries_a_large_image(
    worker: Worker, apps: dict[str, App], name: str, packed: bool
) -> None:
    image = cells()
    transport = await opened(name, worker, apps[RESTRICTED], worker.owner_token)
    try:
        probed = await transport.call("probe", {"payload": bytes(CHUNKED)}, TIMEOUT_S)
        assert (probed["caller"], probed["received_bytes"]) == (OWNER_EMAIL, CHUNKED)
        sent: Any = pack_array(image, FAST_IMAGE_CODEC) if packed else image
        begun = time.monotonic()
        answer = await transport.call("segment_all", {"image_or_embedding": sent}, TIMEOUT_S)
        print(f"{name}, packed {packed}: {time.monotonic() - begun:.2f} s")
    finally:
        await transport.close()
    mask = unpack_array(answer["mask"], 1 << 30) if packed else answer
    assert (mask.shape, mask.dtype, mask.max()) == (image.shape, np.uint32, CELLS)
    assert np.array_equal(mask, WatershedEngine().segment(image, "YX", {}))


@pytest.mark.parametrize("anonymous", [False, True], ids=["stranger", "anonymous"])
@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_stranger_is_refused(
    worker: Worker, apps: dict[str, App], name: str, anonymous: bool
) -> None:
    token = None if anonymous else worker.stranger_token
    with pytest.raises(Denied, match="may not"):
        transport = await opened(name, worker, apps[RESTRICTED], token)
        try:
            await transport.call("probe", {"payload": b"1"}, TIMEOUT_S)
        finally:
            await transport.close()


async def test_who_forges_an_identity_passes_the_proxy_and_not_us(
    worker: Worker, apps: dict[str, App]
) -> None:
    owner = {"user": {"id": "owner", "email": OWNER_EMAIL}}
    async with connected(worker, None) as anonymous:
        with pytest.raises(Exception, match=r"\[samservice.NotAuthorized\]"):
            await over_the_proxy_s_webrtc(anonymous, apps[RESTRICTED], b"1", context=owner)
        answer = await over_the_proxy_s_webrtc(anonymous, apps[OPEN], b"1", context=owner)
    assert (answer["received_bytes"], answer["caller"]) == (1, None)


async def test_every_method_works_through_the_proxy(worker: Worker, apps: dict[str, App]) -> None:
    image = cells()
    async with connected(worker, worker.stranger_token) as server:
        proxied = await server.get_service(apps[OPEN].proxy_id)
        assert (await proxied.describe())["engine"] == "watershed"
        assert (await proxied.probe(b"12", 3))["received_bytes"] == 2
        mask = await proxied.segment_all(image)
        answer = await proxied.segment_all(pack_array(image, FAST_IMAGE_CODEC), axes="YX")
        with pytest.raises(Exception, match=r"\[samservice.WrongAxes\]"):
            await proxied.segment_all(image, axes="ZYX")
        with pytest.raises(Exception, match=r"\[samservice.WrongParameter\]"):
            await proxied.segment_all(image, no_such_parameter=1)
        with pytest.raises(Exception, match=r"\[samservice.EmbeddingsUnsupported\]"):
            await proxied.encode_image(image)
    assert (mask.shape, mask.max(), answer["object_count"]) == (image.shape, CELLS, CELLS)


async def test_the_settings_of_deploy_app_arrive(worker: Worker, apps: dict[str, App]) -> None:
    async with connected(worker, worker.owner_token) as server:
        bioengine = await server.get_service(worker.service_id)
        status = await app_status(bioengine, OPEN)
        described = await (await server.get_service(apps[OPEN].direct_id)).describe()
        registered = await server.list_services({"type": "samservice"})
    reserved = status["application_resources"]
    # Of one replica, and the 0.5 GiB of the proxy.
    assert (reserved["num_cpus"], reserved["memory"]) == (2, (300 + 512) << 20)
    assert described["limits"]["max_queue"] == MAX_QUEUE
    names = [each["id"].partition(":")[2] for each in registered]
    assert names.count(f"{OPEN}-direct") == REPLICAS[OPEN]
    assert names.count(f"{RESTRICTED}-direct") == REPLICAS[RESTRICTED]


async def test_a_killed_replica_comes_back(worker: Worker, apps: dict[str, App]) -> None:
    app = apps[RESTRICTED]
    async with connected(worker, worker.owner_token) as server:
        bioengine = await server.get_service(worker.service_id)
        status = await app_status(bioengine, app.name)
        replicas = status["deployments"][CLASS]["replicas"]
        old = (await until_direct(server, app.proxy_id))["service_id"]
        begun = time.monotonic()
        os.kill(replicas[0]["pid"], signal.SIGKILL)
        new = await until_direct(server, app.proxy_id, unlike=old)
        print(f"replica killed, direct ids again after {time.monotonic() - begun:.1f} s")
    endpoint = worker.endpoint(new["service_id"], worker.owner_token)
    transport = WebRTCTransport(HyphaSession(endpoint))
    await transport.open(TIMEOUT_S)
    try:
        answer = await transport.call("probe", {"payload": bytes(CHUNKED)}, TIMEOUT_S)
    finally:
        await transport.close()
    assert answer["caller"] == OWNER_EMAIL
