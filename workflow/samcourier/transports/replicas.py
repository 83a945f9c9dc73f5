"""Find the replicas of a service that are registered with Hypha, each with its transports."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ..errors import CourierError, InputError, ServiceGone, TransportFailed
from .base import Endpoint, Transport
from .description import TransportDescription, describe_transports
from .session import HyphaSession, list_services

OPEN_TIMEOUT_S = 20.0
#: After this time the caller goes on without the list of replicas.
PICK_TIMEOUT_S = 4.0


def build_transports(endpoint: Endpoint, wanted: str = "auto") -> list[Transport]:
    """Return the wanted transports in order of preference; ``auto`` means all built-in ones.

    Raises InputError as :func:`.description.describe_transports` does, and for a transport that
    cannot be imported.
    """
    return _build(describe_transports(wanted), endpoint, HyphaSession(endpoint))


def _build(
    descriptions: Sequence[TransportDescription], endpoint: Endpoint, session: HyphaSession
) -> list[Transport]:
    built: list[Transport] = []
    for description in descriptions:
        try:
            build = pkgutil.resolve_name(description.build)
        except ImportError as error:
            raise InputError(
                f"transport {description.name!r} cannot be imported ({error}), expected its"
                " dependencies to be installed"
            ) from error
        built.append(build(endpoint, session))
    return built


async def pick_replica(endpoint: Endpoint, wanted: str = "auto") -> tuple[Endpoint, int]:
    """Return the endpoint of one replica, by its full id, and how many there are.

    Hypha does not resolve a name that several clients offer. When there is one replica, or the
    replicas cannot be listed, ``endpoint`` is returned unchanged: opening it shows the failure.
    """
    replicas = Replicas(endpoint, wanted)
    try:
        async with asyncio.timeout(PICK_TIMEOUT_S):
            ids = await replicas.ids()
    except (CourierError, TimeoutError):
        ids = None
    finally:
        await replicas.close()
    return (_named(endpoint, ids[0]), len(ids)) if ids and len(ids) > 1 else (endpoint, 1)


def _named(endpoint: Endpoint, full_id: str) -> Endpoint:
    return replace(endpoint, service_id=full_id, rtc_service_id=f"{full_id}-rtc")


class Replicas:
    """Finds the replicas of ``endpoint.service_id``: every client that offers this bare name.

    An id with the name of its client has one replica. All replicas share one connection to the
    server. ``wanted`` names the transport, or is ``auto``.
    """

    def __init__(self, endpoint: Endpoint, wanted: str = "auto") -> None:
        self._endpoint = endpoint
        self._descriptions = describe_transports(wanted)
        self._session = HyphaSession(endpoint)
        self._last_ids: list[str] | None = None

    async def find(self) -> Mapping[str | None, Sequence[Transport]]:
        """Return the transports of each replica by the name of its client.

        The name is None when the replicas are not looked for.

        Raises Denied, Overloaded, or ServiceGone when the server knows no service of this name.
        """
        # When the server does not answer, its replicas are assumed to be those found last. If it
        # has never answered, it resolves the bare name itself, over HTTP.
        with suppress(TransportFailed):
            self._last_ids = await self.ids()
        ids = self._last_ids
        if ids is None:
            return {None: _build(self._descriptions, self._endpoint, self._session)}
        if not ids:
            raise ServiceGone(f"no service {self._endpoint.service_id!r} is registered")
        return {
            full_id.rpartition(":")[0].rpartition("/")[2]: _build(
                self._descriptions, _named(self._endpoint, full_id), self._session
            )
            for full_id in ids
        }

    async def ids(self) -> list[str] | None:
        """Return the full ids of the replicas, sorted; None when they are not looked for.

        Raises TransportFailed, Overloaded or Denied.
        """
        asks_hypha = any(each.asks_hypha for each in self._descriptions)
        if ":" in self._endpoint.service_id or not asks_hypha:
            return None
        server = await self._session.server(OPEN_TIMEOUT_S, self)
        return await list_services(server, self._endpoint)

    async def close(self) -> None:
        """Release the connection that the replicas share."""
        await self._session.release(self)
