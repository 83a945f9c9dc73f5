"""One stock BioEngine worker with this checkout's app deployed twice: restricted, and open."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import pytest_asyncio

from .real_worker import (
    OWNER_EMAIL,
    Worker,
    connected,
    deploy,
    running_worker,
    until_direct,
    until_running,
    upload,
)

RESTRICTED, OPEN = "restricted", "open"
USERS = {RESTRICTED: [OWNER_EMAIL], OPEN: ["*"]}
REPLICAS = {RESTRICTED: 1, OPEN: 2}
RESERVED = {RESTRICTED: {}, OPEN: {"SAMSERVICE_CPUS": "2", "SAMSERVICE_MEMORY_MB": "300"}}


@dataclass(frozen=True)
class App:
    """A running application: BioEngine's ids of it, and those of our own endpoints."""

    name: str
    proxy_id: str
    proxy_rtc_id: str
    direct_id: str


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    python = os.environ.get("BIOENGINE_PYTHON")
    if not python:
        pytest.skip("BIOENGINE_PYTHON does not name the python of an environment with BioEngine")
    # Ray's sockets do not fit under pytest's own long paths.
    directory = Path(mkdtemp(prefix="be", dir="/tmp"))
    begun = time.monotonic()
    async with running_worker(directory, Path(python)) as running:
        print(f"worker answers after {time.monotonic() - begun:.0f} s")
        yield running
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def artifact_id(worker: Worker) -> str:
    """This checkout's app, uploaded."""
    async with connected(worker, worker.owner_token) as server:
        return await upload(await server.get_service(worker.service_id))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def apps(worker: Worker, artifact_id: str) -> dict[str, App]:
    """The applications by name, each with its endpoints up."""
    async with connected(worker, worker.owner_token) as server:
        bioengine = await server.get_service(worker.service_id)
        found = {}
        for name, users in USERS.items():
            begun = time.monotonic()
            await deploy(
                bioengine,
                artifact_id,
                name,
                worker.owner_token,
                users,
                REPLICAS[name],
                RESERVED[name],
            )
            asked = time.monotonic()
            ids: dict[str, Any] = (await until_running(bioengine, name))["service_ids"]
            running = time.monotonic()
            direct = await until_direct(server, ids["websocket_service_id"])
            print(
                f"{name}: deploy_app {asked - begun:.1f} s, RUNNING after {running - begun:.1f} s, "
                f"direct ids after {time.monotonic() - begun:.1f} s"
            )
            found[name] = App(
                name,
                ids["websocket_service_id"],
                ids["webrtc_service_id"],
                direct["service_id"],
            )
        return found
