"""Every transport, the fake included, passes the suite; those through Hypha fail in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from samcourier.benchmark.naive import NaiveTransport
from samcourier.errors import CourierError, Denied, ServiceGone, TransportFailed
from samcourier.testing import FakeTransport, TransportTests
from samcourier.testing.transports import OPEN_TIMEOUT_S, blobs, segment
from samcourier.transports import (
    Endpoint,
    HttpTransport,
    HyphaSession,
    Transport,
    WebRTCTransport,
    WebSocketTransport,
)
from samservice.contract.wire import pack_array, unpack_array
from samservice.server.app import SegmentationService
from samservice.webrtc.open import available_implementations
from samservice.webrtc.peer import Implementation


def webrtc(implementation: Implementation) -> Callable[[Endpoint], Transport]:
    return lambda endpoint: WebRTCTransport(HyphaSession(endpoint), implementation=implementation)


REAL: dict[str, Callable[[Endpoint], Transport]] = {
    "websocket": lambda endpoint: WebSocketTransport(HyphaSession(endpoint)),
    "webrtc": webrtc("aiortc"),
    "webrtc-wrtc": webrtc("wrtc"),
    "http": HttpTransport,
    "naive": NaiveTransport,
}
NOT_INSTALLED = set() if "wrtc" in available_implementations() else {"webrtc-wrtc"}
NAMES = [
    pytest.param(
        name,
        marks=[
            pytest.mark.live,
            pytest.mark.skipif(name in NOT_INSTALLED, reason="the extra [wrtc] is not installed"),
        ],
    )
    for name in REAL
]


class TestEveryTransport(TransportTests):
    """The suite, over every implementation."""

    @pytest.fixture(params=[*NAMES, "fake"])
    def unopened(
        self,
        request: pytest.FixtureRequest,
        live_endpoint: Endpoint,
        service: SegmentationService,
    ) -> Transport:
        if request.param == "fake":
            return FakeTransport(service)
        return REAL[request.param](live_endpoint)


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_that_is_not_there_is_gone(name: str, live_endpoint: Endpoint) -> None:
    missing = replace(
        live_endpoint,
        service_id=f"{live_endpoint.workspace}/nobody:nothing",
        rtc_service_id=f"{live_endpoint.workspace}/nobody:nothing-rtc",
    )
    await expect_no_opening(REAL[name](missing), ServiceGone)


@pytest.mark.parametrize("name", NAMES)
async def test_a_wrong_token_is_denied(name: str, live_endpoint: Endpoint) -> None:
    await expect_no_opening(REAL[name](replace(live_endpoint, token="not.a.token")), Denied)


@pytest.mark.parametrize("name", NAMES)
async def test_a_stranger_is_denied(name: str, live_endpoint: Endpoint) -> None:
    await expect_no_opening(REAL[name](replace(live_endpoint, token=None)), Denied)


@pytest.mark.parametrize("name", NAMES)
async def test_no_server_is_a_transport_failure(name: str, live_endpoint: Endpoint) -> None:
    nowhere = replace(live_endpoint, server_url="http://127.0.0.1:9")
    await expect_no_opening(REAL[name](nowhere), TransportFailed)


async def expect_no_opening(transport: Transport, failure: type[CourierError]) -> None:
    try:
        with pytest.raises(failure):
            await transport.open(OPEN_TIMEOUT_S)
    finally:
        await transport.close()


@pytest.mark.live
@pytest.mark.slow
async def test_a_4096_image_travels_over_every_transport_with_equal_masks(
    live_endpoint: Endpoint,
) -> None:
    image = pack_array(blobs((4096, 4096)), "blosc-lz4")
    masks = []
    for name in REAL.keys() - NOT_INSTALLED:
        transport = REAL[name](live_endpoint)
        await transport.open(OPEN_TIMEOUT_S)
        try:
            answer = await segment(transport, image)
        finally:
            await transport.close()
        masks.append(unpack_array(answer["mask"], 1 << 30))
    assert masks[0].shape == (4096, 4096)
    assert masks[0].max() > 3000
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


@pytest.mark.live
@pytest.mark.parametrize(
    ("name", "extensions"), [("websocket", []), ("naive", ["permessage-deflate"])]
)
async def test_only_the_naive_client_compresses(
    name: str, extensions: list[str], live_endpoint: Endpoint
) -> None:
    transport: Any = REAL[name](live_endpoint)
    await transport.open(OPEN_TIMEOUT_S)
    try:
        if isinstance(transport, NaiveTransport):
            server = transport._server
        else:
            server = await transport._session.server(OPEN_TIMEOUT_S, transport)
        socket = server.rpc._connection._websocket
        assert [each.name for each in socket.protocol.extensions] == extensions
    finally:
        await transport.close()
