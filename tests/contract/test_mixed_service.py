"""A service whose methods do not all want the caller's context works whole over every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from samcourier.transports import (
    Endpoint,
    HttpTransport,
    HyphaSession,
    Transport,
    WebRTCTransport,
    WebSocketTransport,
)
from samservice.hypha.connection import connect
from samservice.webrtc.endpoint import register_rtc_endpoint

pytestmark = pytest.mark.live

TIMEOUT_S = 30.0
SERVICE = "mixed"
#: The side of an image within one chunk, and of one above a chunk of every transport.
SIZES = {"small": 16, "chunked": 2048}

TRANSPORTS: dict[str, Callable[[Endpoint], Transport]] = {
    "websocket": lambda endpoint: WebSocketTransport(HyphaSession(endpoint)),
    "webrtc": lambda endpoint: WebRTCTransport(HyphaSession(endpoint), implementation="aiortc"),
    "http": HttpTransport,
}


def caller_of(context: Any) -> str | None:
    user = (context or {}).get("user") or {}
    return user.get("email") or user.get("id")


async def transpose_for(image: np.ndarray, context: Any = None) -> dict[str, Any]:
    return {"image": image.T.copy(), "caller": caller_of(context)}


async def transpose(image: np.ndarray) -> dict[str, Any]:
    return {"image": image.T.copy()}


def identify(context: Any) -> dict[str, Any]:
    return {"caller": caller_of(context)}


def add(first: int, second: int = 1) -> dict[str, Any]:
    return {"sum": first + second}


def describe() -> dict[str, Any]:
    return {"engine": "none"}


WITHOUT_CONTEXT = {"transpose": transpose, "add": add, "describe": describe}
WITH_CONTEXT = {"transpose_for": transpose_for, "identify": identify}
MIXED = {
    "id": SERVICE,
    "config": {"visibility": "protected", "require_context": list(WITH_CONTEXT)},
    **WITHOUT_CONTEXT,
    **WITH_CONTEXT,
}


@pytest.fixture
async def endpoint(live_endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    server = await connect(
        live_endpoint.server_url, token=live_endpoint.token, workspace=live_endpoint.workspace
    )
    await server.register_service(MIXED)
    rtc = await register_rtc_endpoint(server, f"{SERVICE}-rtc", MIXED, visibility="protected")
    prefix = f"{server.config['workspace']}/{server.config['client_id']}"
    yield Endpoint(
        live_endpoint.server_url,
        live_endpoint.workspace,
        f"{prefix}:{SERVICE}",
        f"{prefix}:{SERVICE}-rtc",
        live_endpoint.token,
    )
    await rtc.close()
    await server.disconnect()


@pytest.fixture(params=TRANSPORTS)
async def transport(request: pytest.FixtureRequest, endpoint: Endpoint) -> AsyncIterator[Transport]:
    opened = TRANSPORTS[request.param](endpoint)
    await opened.open(TIMEOUT_S)
    yield opened
    await opened.close()


@pytest.mark.parametrize("side", SIZES.values(), ids=SIZES)
async def test_every_method_answers(transport: Transport, side: int) -> None:
    image = np.arange(side * side, dtype=np.uint16).reshape(side, side)
    plain = await transport.call("transpose", {"image": image}, TIMEOUT_S)
    known = await transport.call("transpose_for", {"image": image}, TIMEOUT_S)
    for answer in (plain, known):
        assert answer["image"].dtype == np.uint16
        assert np.array_equal(answer["image"], image.T)
    assert await transport.call("add", {"first": 2}, TIMEOUT_S) == {"sum": 3}
    identified = await transport.call("identify", {}, TIMEOUT_S)
    assert identified["caller"] == known["caller"] is not None
