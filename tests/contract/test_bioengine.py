"""The app on a BioEngine worker: brought up once, found again, taken down; every refusal a line."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from samcourier.deploy.bioengine.app import AppPlan, pack_app, plan_app
from samcourier.deploy.bioengine.deploy import deploy_app, locate, undeploy_app
from samcourier.deploy.bioengine.readiness import AppServices, PollingIntervals
from samcourier.deploy.bioengine.worker import WorkerAddress
from samcourier.deploy.local.supervisor import running_hypha
from samcourier.errors import (
    CourierError,
    Denied,
    InputError,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
)
from samcourier.settings.run_settings import ServiceSettings
from samcourier.transports import Endpoint, build_transports
from samservice.contract.engine_description import describe_engine
from samservice.contract.wire import pack_array, unpack_array
from samservice.hypha.connection import connect

from .worker_double import OldWorkerDouble, Script, WorkerDouble, running_worker

pytestmark = pytest.mark.live

ROOT_TOKEN = "a-root-token-for-bioengine-0123456789-abcdefghijklmnopqrstuvwxyz"
TIMEOUT_S = 20.0
QUICK = PollingIntervals(poll_s=0.05, direct_s=0.1, end_s=10.0)
TRANSPORTS = ("websocket", "webrtc", "http")


def user_id(token: str) -> str:
    """Return the id of the user a token of Hypha is for."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["sub"])


@dataclass
class Site:
    """A workspace of its own on the Hypha server, with users of it and of another one."""

    url: str
    workspace: str
    tokens: dict[str, str]
    log: pytest.LogCaptureFixture
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def worker(
        self,
        script: Script | None = None,
        kind: type[WorkerDouble] = WorkerDouble,
        client_id: str = "worker",
    ) -> WorkerDouble:
        admins = {user_id(self.tokens["admin"])}
        running = running_worker(
            self.url,
            self.tokens["worker"],
            self.workspace,
            admins,
            script or Script(),
            kind=kind,
            client_id=client_id,
        )
        return await self.stack.enter_async_context(running)

    def address(self, user: str = "admin", worker_id: str | None = None) -> WorkerAddress:
        return WorkerAddress(self.url, self.workspace, worker_id, self.tokens.get(user))

    async def deploy_app(
        self, plan: AppPlan, address: WorkerAddress | None = None, timeout_s: float = TIMEOUT_S
    ) -> AppServices:
        return await deploy_app(address or self.address(), plan, timeout_s, QUICK)

    async def undeploy_app(self, plan: AppPlan) -> None:
        await undeploy_app(self.address(), plan, QUICK)

    def endpoint(self, found: AppServices, user: str = "admin") -> Endpoint:
        return Endpoint(
            self.url, self.workspace, found.service_id, found.rtc_service_id, self.tokens[user]
        )

    async def answers(self, found: AppServices) -> bool:
        (transport,) = build_transports(self.endpoint(found), "websocket")
        try:
            await transport.open(10)
            described = await transport.call("describe", {}, 10)
        except ServiceGone:
            return False
        finally:
            await transport.close()
        return bool(described["engine"] == "watershed")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hypha_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with running_hypha(tmp_path_factory.mktemp("bioengine"), ROOT_TOKEN) as (url, _):
        yield url


@pytest.fixture
async def site(hypha_url: str, log: pytest.LogCaptureFixture) -> AsyncIterator[Site]:
    workspace = f"lab-{uuid.uuid4().hex[:8]}"
    root = await connect(hypha_url, token=ROOT_TOKEN)
    tokens = {}
    for name in (workspace, f"{workspace}-home"):
        await root.create_workspace({"name": name, "description": name}, overwrite=True)
    for user in ("admin", "worker", "stranger"):
        tokens[user] = await root.generate_token({"workspace": workspace, "expires_in": 3600})
    tokens["guest"] = await root.generate_token(
        {"workspace": f"{workspace}-home", "expires_in": 3600}
    )
    tokens["nonsense"] = "no.token.at-all"
    await root.disconnect()
    # A workspace is gone with the last who is in it.
    resident = await connect(hypha_url, token=tokens["guest"], workspace=f"{workspace}-home")
    made = Site(hypha_url, workspace, tokens, log)
    try:
        async with made.stack:
            yield made
    finally:
        await resident.disconnect()


def plan(**settings: Any) -> AppPlan:
    service = ServiceSettings(**settings)
    requirements = describe_engine(service.engine).requirements
    return plan_app(pack_app(), service, requirements=requirements)


# Bringing up.


async def test_the_app_is_brought_up_and_segments_over_every_transport(site: Site) -> None:
    worker = await site.worker(Script(log=("loading", "loaded")))
    wanted = plan()
    found = await site.deploy_app(wanted)
    assert worker.changes == ["upload_app", "deploy_app"]
    assert found == AppServices(
        f"{site.workspace}/{wanted.direct_name}", f"{site.workspace}/{wanted.direct_name}-rtc"
    )
    image = np.zeros((64, 64), np.uint16)
    image[20:40, 20:40] = 1000
    arguments = {"image_or_embedding": pack_array(image, "blosc-lz4"), "axes": "YX"}
    transports = build_transports(site.endpoint(found))
    assert [transport.name for transport in transports] == list(TRANSPORTS)
    try:
        for transport in transports:
            await transport.open(20)
            answer = await transport.call("segment_all", arguments, 20)
            assert unpack_array(answer["mask"], 1 << 20).max() == 1
    finally:
        for transport in transports:
            await transport.close()
    assert [line for line in site.log.messages if "replica-1" in line] == [
        "  replica-1: loading",
        "  replica-1: loaded",
    ]
    assert [line for line in site.log.messages if line.startswith(("NOT_", "DEPL", "RUN"))] == [
        "DEPLOYING: the application is deploying",
        "RUNNING",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"application_id": "cells"},
        {"replicas": 2, "memory_mb": 2000, "gpu_memory_mb": -1, "authorized_users": ("*",)},
    ],
)
async def test_a_second_deploy_changes_nothing(site: Site, settings: dict[str, Any]) -> None:
    worker = await site.worker(Script(log=("loaded",)))
    first = await site.deploy_app(plan(**settings))
    done = list(worker.changes)
    site.log.clear()
    assert await site.deploy_app(plan(**settings)) == first
    assert worker.changes == done
    assert [line.partition(" ")[0] for line in site.log.messages] == [
        "worker",
        "application",
        "RUNNING",
        first.service_id,
    ]
    assert await locate(site.address(), plan(**settings)) == first


async def test_a_user_of_another_workspace_names_the_worker_and_finds_the_app(site: Site) -> None:
    worker = await site.worker()
    found = await site.deploy_app(plan())
    home = replace(site.address("guest", worker.service_id), workspace=None)
    assert await locate(home, plan()) == found
    by_name = replace(home, worker_id=f"{site.workspace}/bioengine-worker")
    assert await locate(by_name, plan()) == found
    (transport,) = build_transports(
        replace(site.endpoint(found, "guest"), workspace=None), "websocket"
    )
    await transport.open(10)
    await transport.close()


@pytest.mark.parametrize("settings", [{"cpus": 2}, {"replicas": 2}, {"authorized_users": ("*",)}])
async def test_other_settings_run_beside_the_first(site: Site, settings: dict[str, Any]) -> None:
    worker = await site.worker()
    first = await site.deploy_app(plan())
    second = await site.deploy_app(plan(**settings))
    assert second != first
    assert worker.changes == ["upload_app", "deploy_app", "deploy_app"]
    assert await site.answers(first)
    assert await site.answers(second)


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"replicas": 2}, "replicas"),
        ({"cpus": 2}, "cpus"),
        ({"memory_mb": 9, "gpu_memory_mb": -1}, "memory_mb, gpu_memory_mb"),
        ({"authorized_users": ("eve@example.org",)}, "authorized_users"),
    ],
)
async def test_an_app_of_that_name_with_other_settings_is_left_alone(
    site: Site, settings: dict[str, Any], differs: str
) -> None:
    worker = await site.worker()
    first = await site.deploy_app(plan(application_id="cells"))
    done = list(worker.changes)
    with pytest.raises(RequestRefused, match=rf"runs with other settings \({differs}\)"):
        await site.deploy_app(plan(application_id="cells", **settings))
    assert worker.changes == done
    assert await site.answers(first)
    with pytest.raises(ServiceGone, match=rf"with other settings \({differs}\)"):
        await locate(site.address(), plan(application_id="cells", **settings))


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("DEPLOY_FAILED", ["stop_app", "deploy_app"]),
        ("UNHEALTHY", ["stop_app", "deploy_app"]),
        ("DELETING", ["deploy_app"]),
        ("DEPLOYING", []),
    ],
)
async def test_an_app_that_does_not_run_is_awaited_or_deployed_again(
    site: Site, state: str, changes: list[str]
) -> None:
    worker = await site.worker()
    await site.deploy_app(plan())
    application = worker.applications[plan().application_id]
    application.states[:] = ["DEPLOYING"] * 3 + ["RUNNING"] if state == "DEPLOYING" else [state]
    if state == "DELETING":
        await worker._end(application)
    worker.changes.clear()
    assert await site.answers(await site.deploy_app(plan()))
    assert worker.changes == changes


async def test_an_upload_that_another_run_was_faster_with_is_no_failure(site: Site) -> None:
    worker = await site.worker(Script(somebody_uploads=True))
    assert await site.answers(await site.deploy_app(plan()))
    assert worker.changes == ["deploy_app"]


async def test_without_its_own_endpoint_the_app_is_used_through_the_proxy(site: Site) -> None:
    await site.worker(Script(no_direct="the token has expired"))
    wanted = plan(authorized_users=("*",))
    found = await site.deploy_app(wanted)
    assert found.service_id.endswith(f":{wanted.application_id}")
    assert found.rtc_service_id == f"{found.service_id}-rtc"
    assert found.without_direct == "the token has expired"
    assert site.log.messages[-2] == "the app's own endpoint is missing: the token has expired"
    assert "undeploy and deploy it to give it a new one" in site.log.messages[-1]
    assert await site.answers(found)


# Refusing and failing.


@dataclass(frozen=True)
class Case:
    script: Script = field(default_factory=Script)
    kind: type[WorkerDouble] = WorkerDouble
    user: str = "admin"
    worker_id: str | None = None
    workers: int = 1
    timeout_s: float = TIMEOUT_S
    error: type[CourierError] = ServiceFailed
    says: str = ""
    changes: tuple[str, ...] = ()


BUILT = ("upload_app", "deploy_app")
FAILURES = {
    "no token": Case(
        user="nobody", error=Denied, says="needs a token of one of the worker's administrators"
    ),
    "a token that is none": Case(user="nonsense", error=Denied, says="http://127.0.0.1"),
    "no administrator": Case(
        user="stranger", error=Denied, says="allows only its administrators to deploy"
    ),
    "no worker": Case(workers=0, error=ServiceGone, says="no BioEngine worker 'bioengine-worker'"),
    "another worker": Case(
        worker_id="other:bioengine-worker", error=ServiceGone, says="'other:bioengine-worker' is"
    ),
    "several workers": Case(
        workers=2, error=InputError, says="has 2 BioEngine workers, expected one of them as"
    ),
    "an old API": Case(
        Script(version="0.6.1"),
        OldWorkerDouble,
        says="runs BioEngine 0.6.1, which is too old for this app: update the worker to BioEngine"
        " 0.14 or later (manifest format 0.6.0)",
    ),
    "an old manifest format": Case(Script(version="0.10.3"), says="runs BioEngine 0.10.3, which"),
    "no room": Case(
        Script(refuses_to_build="Insufficient resources for application 'x'. Requested: 9 GPUs"),
        says="to deploy samservice-",
        changes=("upload_app",),
    ),
    "a reason of many lines": Case(
        Script(refuses_to_build="the module cannot be loaded:\n  no module\n\n  named torch"),
        says="the module cannot be loaded: no module named torch",
        changes=("upload_app",),
    ),
    "a reason of many words": Case(
        Script(refuses_to_build=f"pip install failed: {'... ' * 400} no package of that name"),
        says="... no package of that name",
        changes=("upload_app",),
    ),
    "a reason with the token": Case(
        Script(refuses_to_build="bad token {token}"),
        says="bad token [token]",
        changes=("upload_app",),
    ),
    "a replica that fails": Case(
        Script(
            ends_in="DEPLOY_FAILED",
            part_message="the replica failed:\nCUDA out of memory",
            log=("with {token}",),
        ),
        says="DEPLOY_FAILED: the replica failed: CUDA out of memory",
        changes=BUILT,
    ),
    "a health check broken by the naive fix": Case(
        Script(ends_in="DEPLOY_FAILED", part_message="RuntimeError: get_load: no context"),
        says="RuntimeError: get_load: no context (health_check_broken: BioEngine's own",
        changes=BUILT,
    ),
    "a failure without a word": Case(
        Script(ends_in="DEPLOY_FAILED"), says="the application is deploy_failed", changes=BUILT
    ),
    "unhealthy": Case(
        Script(ends_in="UNHEALTHY", part_message="health check failed"),
        says="UNHEALTHY: health check failed",
        changes=BUILT,
    ),
    "never running": Case(
        Script(ends_in="DEPLOYING"),
        timeout_s=0.3,
        says="was not running within service.deploy_timeout_s, last DEPLOYING: the app",
        changes=BUILT,
    ),
    "stopped by somebody": Case(
        Script(somebody_stops=True),
        error=ServiceGone,
        says="somebody stopped it, or the worker restarted",
        changes=BUILT,
    ),
    "a worker that dies uploading": Case(
        Script(dies_in="upload_app"), error=ServiceGone, says="was lost when asked to upload"
    ),
    "a worker that dies deploying": Case(
        Script(dies_in="deploy_app"),
        error=ServiceGone,
        says="was lost when asked to deploy",
        changes=("upload_app",),
    ),
    "a worker that dies before": Case(
        Script(dies_in="get_app_status"), error=ServiceGone, says="when asked for the status of"
    ),
    "an app that fails": Case(
        Script(app_fails="no weights"),
        timeout_s=1.0,
        says="runs, but does not answer: ",
        changes=BUILT,
    ),
    "restricted, and no endpoint of its own": Case(
        Script(no_direct="the token has expired"),
        error=Denied,
        says="(the app's own endpoint: the token has expired; the app keeps the token that it was",
        changes=BUILT,
    ),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
async def test_every_failure_is_one_line_with_the_worker_s_own_reason(
    site: Site, case: Case
) -> None:
    workers = [
        await site.worker(case.script, case.kind, f"worker-{number}")
        for number in range(case.workers)
    ]
    with pytest.raises(CourierError) as caught:
        await site.deploy_app(plan(), site.address(case.user, case.worker_id), case.timeout_s)
    said = str(caught.value)
    assert type(caught.value) is case.error, said
    assert case.says in said
    assert "\n" not in said
    assert "Traceback" not in said
    for worker in workers:
        assert tuple(worker.changes) == case.changes
    for token in site.tokens.values():
        assert token not in said + "".join(site.log.messages)


async def test_an_artifact_of_that_name_with_other_content_is_not_taken_for_ours(
    site: Site,
) -> None:
    worker = await site.worker()
    await site.deploy_app(plan())
    await site.undeploy_app(plan(application_id="none"))
    (artifact,) = worker.artifacts.values()
    artifact["manifest"]["content_sha256"] = "0" * 64
    worker.changes.clear()
    with pytest.raises(ServiceFailed, match="must be strictly greater than the highest existing"):
        await site.deploy_app(plan(application_id="other"))
    assert worker.changes == []


# Finding and taking down.


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (["DEPLOYING"], r"is not running \(DEPLOYING\)"),
        (["UNHEALTHY"], r"is not running \(UNHEALTHY\)"),
        (None, r"is not running \(NOT_RUNNING\)"),
    ],
)
async def test_a_job_finds_no_app_that_does_not_run_and_changes_nothing(
    site: Site, states: list[str] | None, says: str
) -> None:
    worker = await site.worker()
    if states is not None:
        await site.deploy_app(plan())
        worker.applications[plan().application_id].states[:] = states
    worker.changes.clear()
    with pytest.raises(ServiceGone, match=f"{says}.*run samcourier deploy to start it"):
        await locate(site.address(), plan())
    assert worker.changes == []


async def test_taking_down_ends_endpoints_and_artifact_and_twice_is_no_error(site: Site) -> None:
    worker = await site.worker()
    found = await site.deploy_app(plan())
    worker.changes.clear()
    await site.undeploy_app(plan())
    assert worker.changes == ["stop_app", "delete_app"]
    assert not await site.answers(found)
    await site.undeploy_app(plan())
    assert worker.changes == ["stop_app", "delete_app"]
    assert (worker.applications, worker.artifacts) == ({}, {})


async def test_an_artifact_that_another_app_runs_from_stays(site: Site) -> None:
    worker = await site.worker()
    other = await site.deploy_app(plan(replicas=2))
    await site.deploy_app(plan())
    await site.undeploy_app(plan())
    assert "delete_app" not in worker.changes
    assert await site.answers(other)


async def test_only_an_administrator_undeploys(site: Site) -> None:
    worker = await site.worker()
    found = await site.deploy_app(plan())
    with pytest.raises(Denied, match="is not authorized for undeploying the application"):
        await undeploy_app(site.address("stranger"), plan(), QUICK)
    assert await site.answers(found)
    assert worker.changes == ["upload_app", "deploy_app"]


# The command line.


async def samcourier(site: Site, home: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "samcourier.cli"),
        *(arguments[0], "--target", "bioengine", "--server-url", site.url),
        *("--workspace", site.workspace, "--dataset-dir", "results"),
        *arguments[1:],
        cwd=home,
        env=os.environ | {"HYPHA_TOKEN": site.tokens["admin"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.slow
async def test_the_commands_deploy_verify_and_undeploy_and_tell_no_token(
    site: Site, tmp_path: Path
) -> None:
    worker = await site.worker(Script(log=("my token is {token}",)))
    out = ("--out", "results/service/endpoint.json")
    status, said = await samcourier(site, tmp_path, "deploy", *out)
    assert status == 0, said
    assert json.loads((tmp_path / out[1]).read_text()) == {
        "server_url": site.url,
        "workspace": site.workspace,
        "service_id": f"{site.workspace}/{plan().direct_name}",
    }
    assert "my token is [token]" in said
    asked = await samcourier(site, tmp_path, "verify", "--out", "results/service.json")
    assert asked[0] == 0, asked[1]
    works = json.loads((tmp_path / "results/service.json").read_text())["transports"]
    assert {name: verdict["works"] for name, verdict in works.items()} == dict.fromkeys(
        TRANSPORTS, True
    )
    again = await samcourier(site, tmp_path, "deploy", *out)
    assert again[0] == 0, again[1]
    assert worker.changes == ["upload_app", "deploy_app"]
    named = ("--application-id", plan().application_id, "--replicas", "3")
    refused = await samcourier(site, tmp_path, "deploy", *named, *out)
    assert refused[0] == 1
    assert refused[1].splitlines()[-1].startswith("Error: application samservice-")
    gone = await samcourier(site, tmp_path, "undeploy")
    assert gone[0] == 0, gone[1]
    assert worker.applications == {}
    for text in (said, asked[1], again[1], refused[1], gone[1]):
        assert site.tokens["admin"] not in text
        assert "Traceback" not in text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or site.tokens["admin"].encode() not in path.read_bytes(), path
