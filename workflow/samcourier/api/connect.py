"""Connect to a service: start a local one, or find the one that a config names."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..connection import connected
from ..deploy.targets import find_service
from ..results.connection_log import ConnectionJournal
from ..settings.run_settings import RunSettings
from ..transports import Replicas
from .dataset import keys_of, settings_of
from .service import AsyncService, Service

T = TypeVar("T")


def connect(config: str | Path | Mapping[str, Any] | None = None, **service: Any) -> Connection:
    """Return the connection to a service, for ``with`` or ``async with``.

    Without arguments, a local service with the engine ``watershed`` starts, which takes some
    seconds, and ends with the connection::

        with samcourier.connect() as service:
            labels = service.segment(image)

    Args:
        config: The path of a ``config.yaml``, or its keys as a mapping. Its ``service``,
            ``transport`` and ``network`` are used.
        **service: Keys of ``service`` that replace those of the config, e.g.
            ``engine="microsam"``, or ``target="existing"`` with ``server_url`` and ``service_id``;
            also ``transport``.

    Raises :class:`samcourier.errors.InputError` for a wrong key or value.
    """
    keys = keys_of({} if config is None else config)
    changed = {"service": {**(keys.get("service") or {}), **service}}
    if "transport" in service:
        changed["transport"] = changed["service"].pop("transport")
    # A config must name a dataset and its sheet, which a connection does not use.
    return Connection(settings_of({"dataset": "api", "sheet": "images.tsv"} | keys, changed))


class Connection:
    """The connection to a service while its context is entered."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self._stack: AsyncExitStack | None = None
        self._loop: _LoopThread | None = None

    async def __aenter__(self) -> AsyncService:
        """Open the connection.

        Raises the errors of :func:`samcourier.deploy.targets.find_service`, and ServiceGone when
        no transport reaches the service.
        """
        stack = AsyncExitStack()
        service = await stack.enter_async_context(_opened(self.settings))
        self._stack = stack
        return service

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, and end the local service."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    def __enter__(self) -> Service:
        """Open the connection in an event loop of its own thread, also where one runs already."""
        loop = _LoopThread()
        try:
            service = Service(loop.run(self.__aenter__()), loop.run)
        except BaseException:
            loop.close()
            raise
        self._loop = loop
        return service

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, and end the local service."""
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.run(self.__aexit__(None, None, None))
            finally:
                loop.close()


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="samcourier", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; an interrupt of the caller cancels it."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@asynccontextmanager
async def _opened(settings: RunSettings) -> AsyncIterator[AsyncService]:
    """Yield a service; a local one runs in a temporary folder and ends afterwards."""
    is_local = settings.service.target == "local"
    with tempfile.TemporaryDirectory(prefix="samcourier-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        dataset_dir = folder if is_local else Path("results", settings.dataset)
        try:
            endpoint = await asyncio.to_thread(find_service, settings, dataset_dir)
            replicas = Replicas(endpoint, settings.transport)
            with ConnectionJournal(folder / "connection.jsonl") as journal:
                async with connected(replicas, journal, 0) as (manager, description):
                    yield AsyncService(manager, description)
        finally:
            if is_local:
                from ..deploy.local.start import stop_local_service

                await asyncio.to_thread(stop_local_service, folder / "service")
