"""One real local service (Hypha server, WebRTC endpoint, watershed engine) for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from samcourier.deploy.local import ensure_local_service, stop_local_service
from samcourier.transports import Endpoint


@pytest.fixture(scope="session")
def live_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    directory: Path = tmp_path_factory.mktemp("service")
    yield ensure_local_service(directory, "watershed", {})
    stop_local_service(directory)
