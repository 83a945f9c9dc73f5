"""A stock BioEngine worker on this machine: storage, Hypha server, and the worker, on loopback.

The worker and the storage (moto) run in the environment of ``BIOENGINE_PYTHON``, which cannot be
ours: Ray Serve and Hypha's server want different versions of the same packages.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from samcourier.deploy.local.supervisor import _free_port, _wait_until_ready
from samcourier.transports import Endpoint
from samservice.contract.engine_description import describe_engine
from samservice.hypha.connection import connect

SERVICE_DIR = Path(__file__).parents[2] / "service"
CLASS = "SegmentationApp"
MAX_QUEUE = 7
START_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 400.0
STOP_TIMEOUT_S = 60.0
POLL_S = 1.0

OWNER_EMAIL = "owner@example.org"
STRANGER_EMAIL = "stranger@example.org"


@dataclass(frozen=True)
class Worker:
    """A running worker, what its owner and a stranger need, and where Ray keeps its files."""

    server_url: str
    workspace: str
    service_id: str
    owner_token: str = field(repr=False)
    stranger_token: str = field(repr=False)
    ray_dir: Path

    def endpoint(self, service_id: str, token: str) -> Endpoint:
        return Endpoint(self.server_url, None, service_id, f"{service_id}-rtc", token)


@asynccontextmanager
async def running_worker(directory: Path, python: Path) -> AsyncIterator[Worker]:
    """Start everything, yield the worker once it answers, end every process."""
    async with AsyncExitStack() as stack:
        storage_port, hypha_port = _free_port(), _free_port()
        storage = f"http://127.0.0.1:{storage_port}"
        await stack.enter_async_context(
            _process(
                [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(storage_port)],
                directory / "storage.log",
            )
        )
        secret = secrets.token_urlsafe(32)
        hypha = await stack.enter_async_context(
            _process(
                [
                    *(sys.executable, "-m", "samcourier.deploy.local.hypha_server"),
                    *("--host=127.0.0.1", f"--port={hypha_port}", "--enable-s3"),
                    *(f"--endpoint-url={storage}", f"--endpoint-url-public={storage}"),
                    *("--access-key-id=test", "--secret-access-key=testtest"),
                    *("--region-name=us-east-1", "--enable-s3-proxy"),
                ],
                directory / "hypha.log",
                HYPHA_JWT_SECRET=secret,
                TMPDIR=str(directory),
            )
        )
        url = f"http://127.0.0.1:{hypha_port}"
        await _wait_until_ready(url, hypha)
        tokens = [await _token(secret, email) for email in (OWNER_EMAIL, STRANGER_EMAIL)]
        # Ray's socket paths must stay short.
        ray_dir = directory / "r"
        ray_dir.mkdir()
        await stack.enter_async_context(
            _process(
                [
                    *(python, "-m", "bioengine.worker", "--mode", "single-machine"),
                    *("--head-num-cpus", "8", "--head-memory-in-gb", "6"),
                    *("--server-url", url, "--client-id", "worker"),
                    *("--workspace-dir", str(directory / "w")),
                    *("--monitoring-interval-seconds", "5"),
                ],
                directory / "worker.log",
                HYPHA_TOKEN=tokens[0],
                PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}",
                TMPDIR=str(directory),
                RAY_TMPDIR=str(ray_dir),
            )
        )
        workspace = f"ws-user-{_user_id(OWNER_EMAIL)}"
        worker = Worker(url, workspace, f"{workspace}/worker:bioengine-worker", *tokens, ray_dir)
        async with connected(worker, worker.owner_token) as server:
            await until(lambda: server.get_service(worker.service_id), START_TIMEOUT_S)
        yield worker


@asynccontextmanager
async def connected(worker: Worker, token: str | None) -> AsyncIterator[Any]:
    """Connect to the worker's Hypha server with a token, or as an anonymous caller."""
    server = await connect(worker.server_url, token=token, silence_timeout_s=120.0)
    try:
        yield server
    finally:
        await server.disconnect()


async def upload(bioengine: Any) -> str:
    """Upload this checkout's app, return the artifact's id."""
    names = ["manifest.yaml", "deployment.py"]
    package = SERVICE_DIR / "samservice"
    names += [path.relative_to(SERVICE_DIR).as_posix() for path in package.rglob("*.py")]
    files = [
        {"name": name, "content": (SERVICE_DIR / name).read_text(), "type": "text"}
        for name in sorted(names)
    ]
    return str(await bioengine.upload_app(files=files))


async def deploy(
    bioengine: Any,
    artifact_id: str,
    application_id: str,
    token: str | None,
    users: list[str],
    replicas: int,
    reserved: dict[str, str],
    **settings: Any,
) -> None:
    """Ask for an application with the watershed engine; it is not there yet on return."""
    requirements = json.dumps(describe_engine("watershed").requirements)
    environment = {"SAMSERVICE_ENGINE": "watershed", "SAMSERVICE_REQUIREMENTS": requirements}
    await bioengine.deploy_app(
        artifact_id=artifact_id,
        application_id=application_id,
        application_env_vars={CLASS: {**environment, **reserved}},
        application_kwargs={CLASS: {"limits": {"max_queue": MAX_QUEUE}, **settings}},
        scaling={CLASS: {"num_replicas": replicas}},
        authorized_users={"*": users},
        hypha_token=token,
        disable_gpu=True,
    )


async def app_status(bioengine: Any, application_id: str) -> dict[str, Any]:
    """Return the worker's status of one application."""
    statuses = await bioengine.get_app_status(application_ids=[application_id], logs_tail=40)
    return dict(statuses[application_id])


async def until_running(bioengine: Any, application_id: str) -> dict[str, Any]:
    """Return the status once the application runs and its replica's endpoints are known."""

    async def running() -> dict[str, Any]:
        status = await app_status(bioengine, application_id)
        if status["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise AssertionError(f"{status['status']}: {status['message']}\n{status}")
        if status["status"] != "RUNNING":
            raise LookupError(status["status"])
        return status

    return await until(running, READY_TIMEOUT_S)


async def until_direct(server: Any, proxy_id: str, unlike: str | None = None) -> dict[str, Any]:
    """Return the ids of the replica's own endpoints, other than the service id ``unlike``.

    The proxy's service is registered a while after the status says RUNNING.
    """

    async def there() -> dict[str, Any]:
        proxied = await server.get_service(proxy_id)
        ids = dict(await asyncio.wait_for(proxied.direct_ids(), 10))
        if ids.get("service_id") in (None, unlike):
            raise LookupError(ids)
        return ids

    return await until(there, 90.0)


async def until(attempt: Callable[[], Awaitable[Any]], timeout_s: float) -> Any:
    """Return what ``attempt`` returns, once it does; assertions pass through."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            return await attempt()
        except AssertionError:
            raise
        except Exception as error:
            if loop.time() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {error}") from error
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _process(
    command: list[Any], log: Path, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command in a session of its own; on leaving, end it and all that it started."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    if "samcourier.deploy.local.hypha_server" in command:
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=environment,
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Ray's daemons are sessions of their own, known as children or by our folder.
        started = _children(process.pid)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        for each in [*started, *_processes_under(log.parent)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _processes_under(directory: Path) -> list[psutil.Process]:
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            named = each.environ().get("RAY_TMPDIR", "") + " ".join(each.cmdline())
            if str(directory / "r") in named and each.pid != os.getpid():
                found.append(each)
    return found


async def _token(secret: str, email: str) -> str:
    """Return a token for a user with an e-mail address and a workspace of its own."""
    script = (
        "import asyncio, sys\n"
        "from hypha.core import UserInfo, UserPermission\n"
        "from hypha.core.auth import create_scope, generate_auth_token\n"
        "name, email = sys.argv[1:]\n"
        "scope = create_scope({f'ws-user-{name}': UserPermission.admin},"
        " current_workspace=f'ws-user-{name}')\n"
        "user = UserInfo(id=name, roles=[], is_anonymous=False, email=email, scope=scope)\n"
        "print(asyncio.run(generate_auth_token(user, 7200)))\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, _user_id(email), email),
        env=os.environ | {"HYPHA_JWT_SECRET": secret},
        stdout=subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return printed.decode().split()[-1]


def _user_id(email: str) -> str:
    return email.partition("@")[0]
