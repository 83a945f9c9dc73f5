"""Gather the facts about server, service and connection concurrently, each with its own limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import msgspec

from ...connection.time_limits import Policy
from ...deploy.targets import resolve_network
from ...deploy.token import read_token
from ...errors import CourierError, Denied, RequestRefused, ServiceGone
from ...results.service_description import RecentWork, ServiceDescription
from ...segmentation.requirements import check_requirements
from ...settings.run_settings import RunSettings
from ...transports import HyphaSession, build_transports, pick_replica
from ...transports.base import Endpoint, Transport
from ...transports.caller import Caller, identify
from ...transports.http import make_client
from ...transports.ice_servers import ask_ice_servers
from ...transports.session import list_services
from ..forecast import Forecast
from ..verify import verify_service
from .facts import (
    DiskFact,
    Facts,
    PaceFact,
    RunRequest,
    ServerFact,
    ServiceState,
    Unknown,
    VersionFact,
)

T = TypeVar("T")

#: Limit of all checks with the imports before them, without printing and Python's start.
LIMIT_S = 16.0
SERVER_LIMIT_S = 8.0
#: A check with less time was delayed by an earlier step, such as the start of a local service.
ENOUGH_S = 5.0
#: The check looks up a SLURM job's service but does not wait for its start.
JOB_PATIENCE_S = 3.0
POLICY = Policy(open_timeout_s=8.0, webrtc_open_timeout_s=4.0, probe_timeout_s=10.0)

_NO_ENDPOINT = Unknown("not checked: the address of the service is unknown", "not_checked")


@dataclass(frozen=True)
class MachineChecks:
    """The checks of this machine; each runs in a thread and is abandoned after its time limit."""

    forecast: Callable[[], Forecast]
    disk: Callable[[], DiskFact]
    versions: Callable[[], tuple[VersionFact, ...]]
    pace: Callable[[], PaceFact | None]


async def gather_facts(
    request: RunRequest,
    settings: RunSettings,
    find: Callable[[RunSettings], Endpoint],
    checks: MachineChecks,
    spent_s: float = 0.0,
) -> Facts:
    """Return all facts within :func:`left_s`; a fact that took longer is Unknown.

    ``spent_s`` are the seconds of ``LIMIT_S`` that the command has already used.
    """
    deadline_s = asyncio.get_running_loop().time() + left_s(spent_s)
    ice_servers = resolve_network(settings.network).ice_servers
    machine_task = asyncio.gather(
        within(deadline_s, in_thread(checks.forecast)),
        within(deadline_s, in_thread(checks.disk)),
        within(deadline_s, in_thread(checks.versions)),
        within(deadline_s, in_thread(checks.pace)),
    )
    ice_task = asyncio.ensure_future(ask_ice_servers(ice_servers))
    finding_service = asyncio.ensure_future(_find(settings, find, deadline_s))
    server_only = asyncio.ensure_future(
        within(deadline_s, in_thread(lambda: _server_endpoint(settings)))
    )

    async def reached() -> Endpoint | Unknown:
        found, _ = await finding_service
        return await server_only if isinstance(found, Unknown) else found

    async def server() -> ServerFact | Unknown:
        # A local service starts its own server; any other server is known before its service.
        is_known = settings.service.server_url and settings.service.target != "local"
        return await _server(await (server_only if is_known else reached()), deadline_s)

    server_task = asyncio.ensure_future(server())
    endpoint, service = await finding_service
    caller_task = asyncio.ensure_future(_caller(await reached(), deadline_s))
    verdicts, description = await _verdicts(endpoint, request.transport, deadline_s)
    caller, replica_ids = await caller_task
    forecast, disk, versions, pace = await machine_task
    return Facts(
        request=request,
        forecast=forecast,
        service=service,
        server=await server_task,
        caller=caller,
        replica_ids=replica_ids,
        description=description,
        verdicts=verdicts,
        disk=disk,
        versions=versions,
        pace=_recent_pace(description.recent) or pace,
        ice_servers=await ice_task,
        refusals=_refusals(request, description),
        now_unix_s=time.time(),
    )


def left_s(spent_s: float) -> float:
    """Return the seconds left, at least half of ``LIMIT_S``, so that some checks can finish."""
    return max(LIMIT_S - spent_s, LIMIT_S / 2)


async def within(
    deadline_s: float, work: Awaitable[T], limit_s: float | None = None
) -> T | Unknown:
    """Return the result of ``work`` if it ends in time, else the reason as Unknown."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    until_s = deadline_s if limit_s is None else min(deadline_s, start_s + limit_s)
    try:
        async with asyncio.timeout_at(until_s):
            return await work
    except TimeoutError:
        had_s = loop.time() - start_s
        if had_s < ENOUGH_S:
            return Unknown(f"not done in the remaining {had_s:.0f} s: run the doctor again")
        return Unknown(f"no answer within {had_s:.0f} s")
    except CourierError as error:
        return Unknown(str(error), error.kind)
    except OSError as error:
        return Unknown(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), "storage")


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread, so that a hung disk does not block the command."""
    done: Future[T] = Future()
    # A caller that stops waiting must not cancel the future, which the thread still sets.
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(done)


async def _find(
    settings: RunSettings, find: Callable[[RunSettings], Endpoint], deadline_s: float
) -> tuple[Endpoint | Unknown, ServiceState | Unknown]:
    service = msgspec.structs.replace(settings.service, deploy_timeout_s=JOB_PATIENCE_S)
    patient_settings = msgspec.structs.replace(settings, service=service)

    def find_or_not_yet() -> Endpoint | ServiceState:
        try:
            return find(patient_settings)
        except ServiceGone:
            # A service that the run starts itself may be missing before the run.
            if settings.service.target in ("bioengine", "slurm"):
                return "not_yet"
            raise

    # A local service may use nearly all of the time: no other check waits after it.
    found = await within(deadline_s - 1.0, in_thread(find_or_not_yet))
    if isinstance(found, Endpoint):
        return found, "ready"
    if isinstance(found, Unknown):
        return _NO_ENDPOINT, found
    return _NO_ENDPOINT, "not_yet"


def _server_endpoint(settings: RunSettings) -> Endpoint | Unknown:
    """Return the server's endpoint without a service; Unknown for a bad token."""
    service = settings.service
    if not service.server_url:
        return _NO_ENDPOINT
    try:
        token = read_token(service.token_file)
    except Denied as error:
        return Unknown(str(error), error.kind)
    network = resolve_network(settings.network)
    return Endpoint(service.server_url, service.workspace, "", "", token, network)


async def _server(endpoint: Endpoint | Unknown, deadline_s: float) -> ServerFact | Unknown:
    if isinstance(endpoint, Unknown):
        return endpoint if endpoint.kind == "not_checked" else replace(endpoint, kind="not_checked")
    try:
        return await within(deadline_s, _request_readiness(endpoint), SERVER_LIMIT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Unknown(f"{endpoint.server_url}: {error or type(error).__name__}", "transport")


async def _request_readiness(endpoint: Endpoint) -> ServerFact:
    url = endpoint.server_url.rstrip("/")
    async with make_client(endpoint, timeout=SERVER_LIMIT_S) as client:
        start_s, start_unix_s = time.monotonic(), time.time()
        response = await client.get(f"{url}/health/readiness")
        seconds = time.monotonic() - start_s
    kind = response.headers.get("content-type", "no content type")
    return ServerFact(
        url=url,
        is_hypha=response.status_code == 200 and "json" in kind,
        answer=f"{response.status_code} with {kind}",
        seconds=seconds,
        clock_ahead_s=_clock_ahead_s(response, start_unix_s + seconds / 2),
    )


def _clock_ahead_s(response: httpx.Response, moment_unix_s: float) -> float | None:
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp() - moment_unix_s
    except (KeyError, ValueError):
        return None


async def _caller(
    endpoint: Endpoint | Unknown, deadline_s: float
) -> tuple[Caller | Unknown, tuple[str, ...] | Unknown]:
    if isinstance(endpoint, Unknown):
        return endpoint, endpoint
    session, user = HyphaSession(endpoint), object()

    async def identify_and_list() -> tuple[Caller, tuple[str, ...] | Unknown]:
        server = await session.server(POLICY.open_timeout_s, user)
        ids: tuple[str, ...] | Unknown = _NO_ENDPOINT
        if endpoint.service_id:
            ids = await within(deadline_s, _replica_ids(server, endpoint))
        return await identify(server), ids

    try:
        found = await within(deadline_s, identify_and_list())
    finally:
        await session.release(user)
    return (found, found) if isinstance(found, Unknown) else found


async def _replica_ids(server: Any, endpoint: Endpoint) -> tuple[str, ...]:
    # A full id names one replica.
    if ":" in endpoint.service_id:
        return (endpoint.service_id,)
    return tuple(await list_services(server, endpoint))


async def _verdicts(
    endpoint: Endpoint | Unknown, wanted: str, deadline_s: float
) -> tuple[dict[str, dict[str, Any] | Unknown], ServiceDescription]:
    """Return each transport's verdict and the service's description, empty if it has none."""
    if isinstance(endpoint, Unknown):
        return {}, ServiceDescription()
    one, _ = await pick_replica(endpoint, wanted)
    transports = build_transports(one, wanted)
    measuring = asyncio.Lock()

    async def verify(transport: Transport) -> dict[str, Any]:
        return await verify_service(endpoint, [transport], POLICY, measuring)

    found = await asyncio.gather(*(within(deadline_s, verify(each)) for each in transports))
    verdicts: dict[str, dict[str, Any] | Unknown] = {}
    description: dict[str, Any] = {}
    for transport, verdict in zip(transports, found, strict=True):
        if isinstance(verdict, Unknown):
            verdicts[transport.name] = verdict
        else:
            verdicts[transport.name] = verdict["transports"][transport.name]
            description = description or verdict["description"]
    return verdicts, ServiceDescription.of(description)


def _recent_pace(recent: RecentWork | None) -> PaceFact | None:
    if recent is None:
        return None
    return PaceFact(recent.images, recent.pixels, recent.seconds, "the service's own count", True)


def _refusals(request: RunRequest, description: ServiceDescription) -> tuple[str, ...]:
    if description.is_empty:
        return ()
    try:
        check_requirements(
            request.parameters, description, keeps_embeddings=request.keeps_embeddings
        )
    except RequestRefused as error:
        return tuple(str(error).splitlines())
    return ()
