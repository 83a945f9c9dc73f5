"""Direct endpoints of a replica, in addition to those of the worker that runs the replica.

A connection problem must never stop the replica: no error is raised into it, and the next health
check tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..contract.errors import NotAuthorized
from ..hypha.state import answers
from .access import AccessRules
from .app import SegmentationService
from .serve import Address, ServeSettings, serve_through

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
RULES_TIMEOUT_S = 5.0
PING_TIMEOUT_S = 3.0
#: A slow relay occasionally misses one ping; a lost connection misses every ping.
PINGS_MISSED_AT_MOST = 2
CLOSE_TIMEOUT_S = 8.0

UsersByMethod = Mapping[str, Iterable[str]]


class DirectEndpoint:
    """Register a service at Hypha and keep its access rules up to date.

    ``read_users_by_method`` returns the allowed users of each method, see
    :class:`~samservice.server.access.AccessRules`.
    """

    def __init__(
        self,
        service: SegmentationService,
        settings: ServeSettings,
        *,
        read_users_by_method: Callable[[], Awaitable[UsersByMethod]],
    ) -> None:
        self._service = service
        self._settings = settings
        self._read_users_by_method = read_users_by_method
        self._rules_known = False
        self._serving: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._address: Address | None = None
        self._server: Any = None
        self._pings_missed = 0
        self._reason = "the replica is still connecting"
        self._closed = False

    def address(self) -> dict[str, Any]:
        """Return the address as a dict, or ``{"unavailable": reason}``."""
        return asdict(self._address) if self._address else {"unavailable": self._reason}

    async def maintain(self, wait_s: float = 0.0) -> None:
        """Read the access rules again and reconnect if the connection is lost.

        Waits ``wait_s`` at most for the connection. Never raises for a failed one.
        """
        if self._closed:
            return
        if not self._settings.token:
            self._reason = "the replica has no HYPHA_TOKEN, set deploy_app(hypha_token=...)"
        await self._refresh_rules()
        # Without rules nobody may call, and an anonymous connection has no right to register.
        if not (self._rules_known and self._settings.token):
            return
        if self._serving is not None and not self._serving.done() and await self._is_silent():
            await self._end()
        if self._serving is None or self._serving.done():
            self._ready.clear()
            self._stop = asyncio.Event()
            self._serving = asyncio.create_task(self._serve())
        if wait_s:
            ready = asyncio.create_task(self._ready.wait())
            await asyncio.wait(
                {ready, self._serving}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            ready.cancel()

    async def require_rules(self) -> None:
        """Return once the rules are known; raise NotAuthorized when they cannot be read."""
        if not self._rules_known:
            await self._refresh_rules()
        if not self._rules_known:
            raise NotAuthorized(f"the access rules are not known: {self._reason}")

    async def close(self) -> None:
        """Disconnect from Hypha."""
        self._closed = True
        await self._end()

    async def _refresh_rules(self) -> None:
        try:
            users = await asyncio.wait_for(self._read_users_by_method(), RULES_TIMEOUT_S)
        except Exception as error:
            if not self._rules_known:
                self._reason = f"cannot read the access rules: {type(error).__name__}: {error}"
            return
        self._service.access = AccessRules(users)
        self._rules_known = True

    async def _is_silent(self) -> bool:
        if self._server is None:
            return False
        is_answered = await answers(self._server, PING_TIMEOUT_S)
        self._pings_missed = 0 if is_answered else self._pings_missed + 1
        return self._pings_missed > PINGS_MISSED_AT_MOST

    async def _serve(self) -> None:
        limit = asyncio.timeout(CONNECT_TIMEOUT_S)

        async def publish(address: Address, server: Any) -> None:
            limit.reschedule(None)
            self._address, self._server, self._pings_missed = address, server, 0
            self._ready.set()
            logger.info("the direct endpoint is ready: %s", address.service_id)

        try:
            async with limit:
                await serve_through(
                    self._service, self._settings, on_ready=publish, stop=self._stop
                )
        except TimeoutError:
            self._reason = f"not connected within {CONNECT_TIMEOUT_S:g} s"
        except Exception as error:
            self._reason = str(error)
        finally:
            self._address = self._server = None
        if not self._stop.is_set():
            logger.warning("the direct endpoint is not connected: %s", self._reason)

    async def _end(self) -> None:
        serving, self._serving = self._serving, None
        if serving is None:
            return
        self._stop.set()
        _, running = await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S)
        if running:
            serving.cancel()
            await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S)
