"""Endpoints of a replica's own, kept up beside those of whoever runs the replica.

Being connected is worth a lot and never worth the replica's life: nothing here raises into the
replica, and what fails is tried again at the next health check.
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
#: A slow relay misses one ping now and then; a lost connection misses all.
PINGS_MISSED_AT_MOST = 2
CLOSE_TIMEOUT_S = 8.0

UsersByMethod = Mapping[str, Iterable[str]]


class DirectEndpoint:
    """Registers a service at Hypha, under access rules that it reads from elsewhere."""

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
        self._reason = "it is connecting"
        self._closed = False

    def where(self) -> dict[str, Any]:
        """Return the address as a dict, or ``{"unavailable": reason}``."""
        return asdict(self._address) if self._address else {"unavailable": self._reason}

    async def keep_up(self, wait_s: float = 0.0) -> None:
        """Read the rules anew and reconnect what is gone, waiting ``wait_s`` for it at most."""
        if self._closed:
            return
        if not self._settings.token:
            self._reason = "the replica was given no HYPHA_TOKEN: deploy_app(hypha_token=...)"
        await self._refresh_rules()
        # Nobody may call yet, and an anonymous connection has no right to register.
        if not (self._rules_known and self._settings.token):
            return
        if self._serving is not None and not self._serving.done() and await self._is_deaf():
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

    async def rules_known(self) -> None:
        """Return once the rules are known; raise NotAuthorized when they cannot be read."""
        if not self._rules_known:
            await self._refresh_rules()
        if not self._rules_known:
            raise NotAuthorized(f"who may call is not known: {self._reason}")

    async def close(self) -> None:
        """Leave Hypha."""
        self._closed = True
        await self._end()

    async def _refresh_rules(self) -> None:
        try:
            users = await asyncio.wait_for(self._read_users_by_method(), RULES_TIMEOUT_S)
        except Exception as error:
            if not self._rules_known:
                self._reason = f"no access rules: {type(error).__name__}: {error}"
            return
        self._service.access = AccessRules(users)
        self._rules_known = True

    async def _is_deaf(self) -> bool:
        if self._server is None:
            return False
        heard = await answers(self._server, PING_TIMEOUT_S)
        self._pings_missed = 0 if heard else self._pings_missed + 1
        return self._pings_missed > PINGS_MISSED_AT_MOST

    async def _serve(self) -> None:
        limit = asyncio.timeout(CONNECT_TIMEOUT_S)

        async def publish(address: Address, server: Any) -> None:
            limit.reschedule(None)
            self._address, self._server, self._pings_missed = address, server, 0
            self._ready.set()
            logger.info("direct endpoint ready: %s", address.service_id)

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
            logger.warning("direct endpoint not there: %s", self._reason)

    async def _end(self) -> None:
        serving, self._serving = self._serving, None
        if serving is None:
            return
        self._stop.set()
        _, running = await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S)
        if running:
            serving.cancel()
            await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S)
