"""Run the service anywhere: a laptop, a cluster job, a replica.

One call, :func:`serve`, connects to Hypha, registers the service and its WebRTC endpoint, says
that it is ready, and stays until it is told to stop. When the server goes away, it is connected to
again for as long as the process lives, also when it refuses at first, as one that starts does;
only a refusal that will not pass ends the service.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract.errors import NotConnected, WrongParameter
from ..engines.base import Engine
from ..hypha.connection import connect
from ..hypha.refusals import explain_refusal
from ..hypha.state import is_connected, is_refused, refusal
from ..webrtc.endpoint import register_rtc_endpoint
from ..webrtc.peer import Implementation
from .access import AccessRules
from .app import Limits, SegmentationService
from .idle import Need, stop_when_unneeded

logger = logging.getLogger(__name__)

#: How often the connection is looked at.
LOOK_S = 1.0


@dataclass(frozen=True)
class Address:
    """Where the service can be found on its Hypha server; what a client needs but the token."""

    server_url: str
    workspace: str
    service_id: str
    rtc_service_id: str


@dataclass(frozen=True)
class ServeSettings:
    """How to register: ids are per service, ``visibility`` is Hypha's protected or public.

    ``authorized_users`` are e-mail addresses and ids, or ``*``; none given, everyone whom the
    visibility lets through. ``rtc_implementation`` None is the fastest that is installed. The
    service ends by itself when for ``idle_limit_s`` no image came and nobody touched
    ``owner_file``.
    """

    server_url: str
    token: str | None = field(default=None, repr=False)
    workspace: str | None = None
    service_id: str = "samservice"
    visibility: str = "protected"
    ice_servers: list[dict[str, Any]] | None = None
    ca_bundle: Path | None = None
    rtc_implementation: Implementation | None = None
    limits: Limits = field(default_factory=Limits)
    authorized_users: tuple[str, ...] = ()
    idle_limit_s: float | None = None
    owner_file: Path | None = None


async def serve(
    engine: Engine,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    """Serve ``engine`` until ``stop`` is set.

    ``on_ready`` gets the address and hypha-rpc's server object once both are registered.
    Raises :class:`NotConnected`, also for a server that comes back and refuses the service for
    good, or :class:`WrongParameter` for an id that Hypha cannot hold.
    """
    access = AccessRules.for_users(settings.authorized_users)
    service = SegmentationService(engine, settings.limits, access)
    watching: asyncio.Task[None] | None = None
    if settings.idle_limit_s is not None:
        need = Need(service.idle_s, settings.owner_file)
        watching = asyncio.ensure_future(stop_when_unneeded(need, settings.idle_limit_s, stop))
    try:
        await serve_through(service, settings, on_ready=on_ready, stop=stop)
    finally:
        if watching is not None:
            watching.cancel()
        service.close()


async def serve_through(
    service: SegmentationService,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    """Serve ``service``, whose own limits and access rules hold, like :func:`serve`.

    It is not closed: what else uses it goes on.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", settings.service_id):
        raise WrongParameter(
            f"service id {settings.service_id!r}, expected letters, digits, '.', '_' and '-'"
        )
    # Replicas of one id would throw each other out if they shared a client id.
    client_id = f"{settings.service_id}-{uuid.uuid4().hex[:12]}"
    try:
        server = await connect(
            settings.server_url,
            token=settings.token,
            workspace=settings.workspace,
            client_id=client_id,
            ca_bundle=settings.ca_bundle,
        )
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        why = explain_refusal(said, settings.token) or said
        raise NotConnected(f"cannot serve through {settings.server_url}: {why}") from error
    # Before a large request can be refused for its caller, it has to be kept.
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
            await stay(server, settings.server_url, stop, settings.token)
        finally:
            await endpoint.close()
    finally:
        await server.disconnect()


async def stay(server: Any, server_url: str, stop: asyncio.Event, token: str | None = None) -> None:
    """Wait for ``stop``, saying when the server is lost, refuses at first, and is back.

    Raises NotConnected when it refuses the service for good, which nobody could reach any more.
    """
    was_open, told_refusal = True, False
    while not stop.is_set():
        said = refusal(server)
        if is_refused(server):
            why = explain_refusal(said or "", token) or said or "it does not say why"
            raise NotConnected(f"{server_url} does not take the service back: {why}")
        is_open = is_connected(server)
        if is_open != was_open:
            logger.warning("%s is %s", server_url, "back" if is_open else "lost, trying again")
        if said is not None and not told_refusal:
            logger.warning("%s does not take the service back, trying again: %s", server_url, said)
        was_open, told_refusal = is_open, said is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_S)


async def serve_until_interrupted(
    engine: Engine,
    settings: ServeSettings,
    *,
    on_ready: Callable[[Address, Any], Awaitable[None]],
) -> None:
    """Serve until SIGINT or SIGTERM, then leave cleanly."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(engine, settings, on_ready=on_ready, stop=stop)
