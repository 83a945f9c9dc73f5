"""What every transport owes its user, the fake and the documented one included: one suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samcourier.benchmark.naive import NaiveTransport
from samcourier.errors import CourierError, Denied, ServiceGone, TransportFailed
from samcourier.transports import (
    Endpoint,
    HttpTransport,
    HyphaSession,
    Transport,
    WebRTCTransport,
    WebSocketTransport,
)
from samcourier.transports.fake import FakeTransport
from samservice.contract.wire import pack_array, unpack_array
from samservice.engines.watershed import WatershedEngine
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

OPEN_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 120.0


@pytest.fixture(params=[*NAMES, "fake", "documented"])
async def transport(
    request: pytest.FixtureRequest,
    live_endpoint: Endpoint,
    documented: Callable[[str], ModuleType],
    tmp_path: Path,
) -> AsyncIterator[Transport]:
    """Every implementation, open; closed afterwards."""
    opened: Transport
    server: asyncio.Server | None = None
    if request.param == "fake":
        service = SegmentationService(WatershedEngine())
        request.addfinalizer(service.close)
        opened = FakeTransport(service)
    elif request.param == "documented":
        example = documented("A transport")
        service = SegmentationService(WatershedEngine())
        request.addfinalizer(service.close)
        server = await example.serve(service, tmp_path / "socket")
        opened = example.SocketTransport(tmp_path / "socket")
    else:
        opened = REAL[request.param](live_endpoint)
    await opened.open(OPEN_TIMEOUT_S)
    yield opened
    await opened.close()
    if server is not None:
        server.close()
        await server.wait_closed()


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint16 image with a bright square every 64 px."""
    image = np.full(shape, 100, np.uint16)
    for y in range(16, shape[-2] - 32, 64):
        for x in range(16, shape[-1] - 32, 64):
            image[..., y : y + 24, x : x + 24] = 2000
    return image


async def segment(transport: Transport, image: Any, **others: Any) -> Any:
    return await transport.call(
        "segment_all", {"image_or_embedding": image, **others}, CALL_TIMEOUT_S
    )


async def test_the_service_describes_itself(transport: Transport) -> None:
    description = await transport.call("describe", {}, CALL_TIMEOUT_S)
    assert description["engine"] == "watershed"
    assert description["wire"]["version"] == 1
    assert description["limits"]["max_queue"] > 0


@pytest.mark.parametrize(("up", "down"), [(0, 0), (10, 3_000_000), (3_000_000, 10)])
async def test_a_probe_carries_its_bytes_both_ways(
    transport: Transport, up: int, down: int
) -> None:
    answer = await transport.call(
        "probe", {"payload": b"\x5a" * up, "reply_bytes": down}, CALL_TIMEOUT_S
    )
    assert (answer["received_bytes"], len(answer["data"])) == (up, down)


@pytest.mark.parametrize(
    ("shape", "axes", "mask_shape"),
    [
        ((128, 192), None, (128, 192)),
        ((2, 128, 192), None, (128, 192)),
        ((3, 128, 192), "ZYX", (3, 128, 192)),
        ((2, 3, 128, 192), "CZYX", (3, 128, 192)),
    ],
)
async def test_packed_and_plain_images_get_equal_masks(
    transport: Transport, shape: tuple[int, ...], axes: str | None, mask_shape: tuple[int, ...]
) -> None:
    image = blobs(shape)
    given = {} if axes is None else {"axes": axes}
    plain = await segment(transport, image, **given)
    answer = await segment(transport, pack_array(image, "blosc-lz4"), **given)
    packed = unpack_array(answer["mask"], 1 << 30)
    assert plain.dtype == packed.dtype == np.uint32
    assert plain.shape == packed.shape == mask_shape
    np.testing.assert_array_equal(plain, packed)
    assert answer["object_count"] == plain.max() > 0


async def test_a_constant_image_is_no_error(transport: Transport) -> None:
    answer = await segment(transport, pack_array(np.full((64, 64), 7, np.uint8), "raw"))
    assert answer["object_count"] == 0
    assert "constant" in answer["note"]


SQUARE = np.zeros((16, 16), np.uint16)


@pytest.mark.parametrize(
    ("image", "others", "kind", "name"),
    [
        (SQUARE, {"axes": "XY"}, "image", "WrongAxes"),
        (SQUARE, {"axes": "ZYX"}, "image", "WrongAxes"),
        (np.zeros((2, 2, 2, 2), np.uint8), {}, "image", "WrongAxes"),
        (np.zeros((0, 16), np.uint16), {}, "image", "WrongShape"),
        (np.zeros((16, 16), np.complex64), {}, "image", "WrongDtype"),
        ("a string", {}, "image", "WrongDtype"),
        (np.full((16, 16), np.nan, np.float32), {}, "image", "NotFinite"),
        (np.array([[1.0, np.inf]], np.float32), {}, "image", "NotFinite"),
        (pack_array(SQUARE, "raw") | {"shape": [16, 17]}, {}, "image", "WrongShape"),
        (
            pack_array(SQUARE, "raw") | {"shape": [1 << 20, 1 << 20]},
            {},
            "image",
            "WrongShape",
        ),
        (SQUARE, {"sigmma_px": 1.0}, "request", "WrongParameter"),
        ({}, {"embedding": True}, "request", "EmbeddingsUnsupported"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    transport: Transport, image: Any, others: dict[str, Any], kind: str, name: str
) -> None:
    with pytest.raises(CourierError) as caught:
        await segment(transport, image, **others)
    assert (caught.value.kind, caught.value.name) == (kind, name)
    assert "Traceback" not in str(caught.value)


async def test_encoding_is_refused_by_name_where_there_are_no_embeddings(
    transport: Transport,
) -> None:
    with pytest.raises(CourierError) as caught:
        await transport.call("encode_image", {"image": blobs((64, 64))}, CALL_TIMEOUT_S)
    assert caught.value.name == "EmbeddingsUnsupported"


async def test_a_method_that_is_not_there_is_named(transport: Transport) -> None:
    with pytest.raises(CourierError) as caught:
        await transport.call("segment_some", {}, CALL_TIMEOUT_S)
    assert (caught.value.kind, caught.value.name) == ("request", "NoSuchMethod")


async def test_a_call_over_its_deadline_fails_as_a_transport(transport: Transport) -> None:
    with pytest.raises(TransportFailed):
        await transport.call("segment_all", {"image_or_embedding": blobs((1024, 1024))}, 0.01)


async def test_a_closed_transport_refuses_calls_and_opens_again(transport: Transport) -> None:
    await transport.close()
    await transport.close()
    with pytest.raises(TransportFailed):
        await transport.call("describe", {}, CALL_TIMEOUT_S)
    await transport.open(OPEN_TIMEOUT_S)
    assert (await transport.call("describe", {}, CALL_TIMEOUT_S))["engine"] == "watershed"


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
    ("transport", "extensions"),
    [("websocket", []), ("naive", ["permessage-deflate"])],
    indirect=["transport"],
)
async def test_only_the_naive_client_compresses(
    transport: WebSocketTransport | NaiveTransport, extensions: list[str]
) -> None:
    if isinstance(transport, NaiveTransport):
        server = transport._server
    else:
        server = await transport._session.server(OPEN_TIMEOUT_S, transport)
    socket = server.rpc._connection._websocket
    assert [each.name for each in socket.protocol.extensions] == extensions
