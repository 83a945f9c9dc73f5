"""Run the service on a laptop, in a cluster job or in a replica.

:func:`serve` connects to Hypha, registers the service and its WebRTC endpoint, reports that it is
ready, and serves until it is stopped. After a lost connection it reconnects for as long as the
process runs, also when the server refuses temporarily, as a starting server does. Only a final
refusal ends the service, and a stage that hangs.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..contract.errors import NotConnected, WrongParameter
from ..engines.base import Engine
from ..hypha.connection import connect
from ..hypha.refusals import explain_refusal, is_final
from ..hypha.state import is_connected, is_refused, refusal
from ..webrtc.endpoint import register_rtc_endpoint
from ..webrtc.peer import Implementation
from .access import AccessRules
from .app import Limits, SegmentationService
from .idle import IdleTimer, stop_when_idle
from .restart import Ending, end_when_frozen

logger = logging.getLogger(__name__)

#: Interval at which the connection is checked.
CONNECTION_CHECK_S = 1.0

#: Pause between two attempts of a service that goes on to reach its server.
RECONNECT_PAUSE_S = 2.0

#: For so long the images in the pipeline may end after a signal. With SEND_LIMIT_S it is below
#: SLURM's default KillWait of 30 s.
DRAIN_LIMIT_S = 20.0
#: For so long the last answers may travel.
SEND_LIMIT_S = 5.0
_SEND_CHECK_S = 0.01
_TURNS_TO_SEND = 10

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Address:
    """The address of the service on its Hypha server: all that a client needs except a token."""

    server_url: str
    workspace: str
    service_id: str
    rtc_service_id: str


@dataclass(frozen=True)
class ServeSettings:
    """How to connect to Hypha and register the service.

    Attributes:
        server_url: URL of the Hypha server.
        token: Token for the server; None connects anonymously.
        workspace: Workspace to register in; None for the token's.
        service_id: Id of the service: letters, digits, ".", "_" and "-".
        visibility: Hypha's ``protected`` or ``public``.
        ice_servers: Dictionaries with ``urls``, ``username`` and ``credential``.
        ca_bundle: File of the certificates to trust; None for the system's.
        rtc_implementation: ``wrtc`` or ``aiortc``; None for the fastest installed one.
        client_id: Client id at the server; None for a new one.
        goes_on: Whether clients know the service already, from a process that this one replaces.
        limits: Limits of requests and queue.
        authorized_users: E-mail addresses and ids, or ``*``; empty for everyone whom the
            visibility lets through.
        ends_when_frozen: Whether the process ends when the engine stops it altogether, see
            :func:`samservice.server.restart.end_when_frozen`. Only for a process of its own.
        idle_limit_s: The service ends after this time without an image and without a change of
            the time stamp of ``owner_file``; None for never.
        owner_file: File that the owner touches to keep the service running.
    """

    server_url: str
    token: str | None = field(default=None, repr=False)
    workspace: str | None = None
    service_id: str = "samservice"
    visibility: str = "protected"
    ice_servers: list[dict[str, Any]] | None = None
    ca_bundle: Path | None = None
    rtc_implementation: Implementation | None = None
    client_id: str | None = None
    goes_on: bool = False
    limits: Limits = field(default_factory=Limits)
    authorized_users: tuple[str, ...] = ()
    ends_when_frozen: bool = False
    idle_limit_s: float | None = None
    owner_file: Path | None = None


async def serve(
    engine: Engine,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
    stop: asyncio.Event,
) -> Ending | None:
    """Serve ``engine`` until ``stop`` is set or a stage of an image hangs.

    The images in the pipeline end first, within ``DRAIN_LIMIT_S``; others are refused.
    ``on_ready`` receives the address and hypha-rpc's server object once service and WebRTC
    endpoint are registered.

    Returns the hang after which this process must be replaced, see
    :mod:`samservice.server.restart`, and None when ``stop`` was set.

    Raises :class:`NotConnected` when the connection fails or the server finally refuses a
    reconnection, and :class:`WrongParameter` for an id that Hypha does not accept.
    """
    access = AccessRules.for_users(settings.authorized_users)
    service = SegmentationService(engine, settings.limits, access)
    client_id = settings.client_id or new_client_id(settings.service_id)
    drained = asyncio.Event()
    watching = [asyncio.ensure_future(_drain_at_the_end(service, stop, drained))]
    if settings.ends_when_frozen:
        watching.append(asyncio.ensure_future(end_when_frozen(1.25 * settings.limits.max_stage_s)))
    if settings.idle_limit_s is not None:
        timer = IdleTimer(service.idle_s, settings.owner_file)
        watching.append(asyncio.ensure_future(stop_when_idle(timer, settings.idle_limit_s, stop)))
    try:
        await serve_through(
            service, replace(settings, client_id=client_id), on_ready=on_ready, stop=drained
        )
    finally:
        for task in watching:
            task.cancel()
        ends = await asyncio.gather(*watching, return_exceptions=True)
        service.close()
    for end in ends:
        if isinstance(end, Exception):
            raise end
    hang = service.hang()
    if hang is None or stop.is_set():
        return None
    return Ending(hang, service.images_finished, client_id)


def new_client_id(service_id: str) -> str:
    """Return a client id for a service.

    Hypha disconnects the older of two clients with the same id, so each replica has its own.
    """
    return f"{service_id}-{uuid.uuid4().hex[:12]}"


async def _drain_at_the_end(
    service: SegmentationService, stop: asyncio.Event, drained: asyncio.Event
) -> None:
    """Wait for ``stop`` or a hang, drain the service, and set ``drained``."""
    try:
        while not stop.is_set() and (hang := service.hang()) is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), CONNECTION_CHECK_S)
        if not stop.is_set() and hang is not None:
            logger.warning(
                "an image hangs in the stage %s, the service restarts",
                hang.stage,
                extra={"stage": hang.stage},
            )
        await service.drain(DRAIN_LIMIT_S)
    finally:
        drained.set()


async def serve_through(
    service: SegmentationService,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    """Serve ``service`` like :func:`serve`, with the limits and access rules that it already has.

    ``service`` is not closed, because others may use it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", settings.service_id):
        raise WrongParameter(
            f"service id {settings.service_id!r}, expected letters, digits, '.', '_' and '-'"
        )
    client_id = settings.client_id or new_client_id(settings.service_id)
    server = await _connect(settings, client_id, stop)
    if server is None:
        return
    # A large request is kept in memory before its method can check the caller, so check earlier.
    server.rpc.admit = lambda context: service.access.check_any(context)
    try:
        methods = {
            "segment_all": service.segment_all,
            "encode_image": service.encode_image,
            "describe": service.describe,
            "probe": service.probe,
        }
        shared = {
            "id": settings.service_id,
            "name": settings.service_id,
            "type": "samservice",
            "config": {"visibility": settings.visibility, "require_context": True},
            **methods,
        }
        await server.register_service(shared)
        rtc_id = f"{settings.service_id}-rtc"
        endpoint = await register_rtc_endpoint(
            server,
            rtc_id,
            shared,
            visibility=settings.visibility,
            ice_servers=settings.ice_servers,
            implementation=settings.rtc_implementation,
            authorize=lambda context: service.access.check_any(context),
        )
        workspace = server.config["workspace"]
        prefix = f"{workspace}/{client_id}"
        address = Address(
            settings.server_url,
            workspace,
            f"{prefix}:{settings.service_id}",
            f"{prefix}:{rtc_id}",
        )
        try:
            await on_ready(address, server)
            await watch_connection(server, settings.server_url, stop, settings.token)
            await _wait_until_sent(lambda: server.rpc.is_sending or endpoint.is_sending)
        finally:
            await endpoint.close()
    finally:
        await server.disconnect()


async def _connect(settings: ServeSettings, client_id: str, stop: asyncio.Event) -> Any:
    """Return the connected server, None when ``stop`` was set before.

    A service that goes on under its client id waits for its server, as one does that has lost its
    connection. Raises NotConnected for a final refusal, and any failure of a new service.
    """
    while True:
        try:
            return await connect(
                settings.server_url,
                token=settings.token,
                workspace=settings.workspace,
                client_id=client_id,
                ca_bundle=settings.ca_bundle,
            )
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            reason = explain_refusal(message, settings.token) or message
            if not settings.goes_on or is_final(message):
                problem = f"cannot serve through {settings.server_url}: {reason}"
                raise NotConnected(problem) from error
        logger.warning("%s is not reached, trying again: %s", settings.server_url, reason)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RECONNECT_PAUSE_S)
        if stop.is_set():
            return None


async def _wait_until_sent(is_sending: Callable[[], bool]) -> None:
    """Wait until the answers have left, ``SEND_LIMIT_S`` at most.

    An answer is handed to hypha-rpc a few turns of the event loop after its call has ended.
    """
    deadline_s = time.monotonic() + SEND_LIMIT_S
    for _ in range(_TURNS_TO_SEND):
        await asyncio.sleep(0)
    while is_sending() and time.monotonic() < deadline_s:
        await asyncio.sleep(_SEND_CHECK_S)


async def watch_connection(
    server: Any, server_url: str, stop: asyncio.Event, token: str | None = None
) -> None:
    """Wait for ``stop``; log when the connection is lost, refused temporarily, or restored.

    Raises NotConnected when the server refuses the service finally: no client could reach it.
    """
    was_open, refusal_logged = True, False
    while not stop.is_set():
        message = refusal(server)
        if is_refused(server):
            reason = explain_refusal(message or "", token) or message or "it gives no reason"
            raise NotConnected(f"{server_url} does not accept the service again: {reason}")
        is_open = is_connected(server)
        if is_open != was_open:
            if is_open:
                logger.warning("the connection to %s is restored", server_url)
            else:
                logger.warning("the connection to %s is lost, trying again", server_url)
        if message is not None and not refusal_logged:
            logger.warning(
                "%s does not accept the service again yet, trying again: %s", server_url, message
            )
        was_open, refusal_logged = is_open, message is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), CONNECTION_CHECK_S)


async def serve_until_interrupted(
    engine: Engine,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
) -> Ending | None:
    """Serve like :func:`serve` until SIGINT or SIGTERM; a second signal does not wait."""
    stop = asyncio.Event()
    stop_at_signals(stop)
    return await serve(engine, settings, on_ready=on_ready, stop=stop)


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` at SIGINT or SIGTERM; the next one ends the process as usual."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupted)
