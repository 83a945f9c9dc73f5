"""One real local service (Hypha server, WebRTC endpoint, watershed engine) for all tests here.

The tests of real failures have a Hypha server of their own, with low limits and a known root token,
and behind it a scripted service in a process of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from samcourier.deploy.local.start import ensure_local_service, stop_local_service
from samcourier.deploy.local.supervisor import running_hypha
from samcourier.transports import Endpoint
from samservice.webrtc.open import available_implementations
from samservice.webrtc.peer import Implementation

from .faulty_proxy import FaultyProxy, faulty_proxy
from .real_world import ROOT_TOKEN, scripted_service

NEEDS_WRTC = pytest.mark.skipif(
    "wrtc" not in available_implementations(), reason="the extra [wrtc] is not installed"
)
IMPLEMENTATIONS = ["aiortc", pytest.param("wrtc", marks=NEEDS_WRTC)]


#: Low enough to be reached on purpose, high enough not to be by chance.
LIMITS = {
    "HYPHA_WS_MSG_RATE_LIMIT": "60",
    "HYPHA_WS_MSG_BURST_LIMIT": "200",
    "HYPHA_HTTP_AUTHENTICATED_RATE_LIMIT": "20",
    "HYPHA_HTTP_AUTHENTICATED_BURST_LIMIT": "60",
}


@pytest.fixture(scope="session")
def live_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    directory: Path = tmp_path_factory.mktemp("service")
    yield ensure_local_service(directory, "watershed", {})
    stop_local_service(directory)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    """The scripted service, on a server whose limits are known."""
    limits = pytest.MonkeyPatch()
    for name, value in LIMITS.items():
        limits.setenv(name, value)
    async with running_hypha(tmp_path_factory.mktemp("hypha"), ROOT_TOKEN) as (url, _):
        limits.undo()
        async with scripted_service(url) as (_, endpoint):
            yield endpoint


@pytest.fixture
async def proxy(scripted: Endpoint) -> AsyncIterator[FaultyProxy]:
    """A proxy in front of the server of the scripted service."""
    async with faulty_proxy(scripted.server_url) as running:
        yield running


@pytest.fixture
def proxied(scripted: Endpoint, proxy: FaultyProxy) -> Endpoint:
    return replace(scripted, server_url=proxy.url)


@pytest.fixture(params=IMPLEMENTATIONS)
def answering(request: pytest.FixtureRequest) -> Implementation:
    """The WebRTC library of the service."""
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def calling(request: pytest.FixtureRequest) -> Implementation:
    """The WebRTC library of the client."""
    return request.param
