"""Find a BioEngine worker in Hypha, call it, and reduce its errors to one line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CourierError, Denied, InputError, ServiceFailed, ServiceGone
from ...formatting import plain
from ...transports.session import root_logger_kept
from ...transports.translate import is_from_far_side, translate, translate_opening

SERVICE_NAME = "bioengine-worker"
#: The first version with manifest format 0.6.0 and GPU requests by memory.
OLDEST_VERSION = (0, 14)

CONNECT_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 0.5
#: ``deploy_app`` builds before it answers, ``upload_app`` stores file by file.
BUILD_TIMEOUT_S = 900.0

_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w*(?:Error|Exception)\b:? ?")


@dataclass(frozen=True)
class WorkerAddress:
    """The worker and the caller's token.

    ``workspace`` None is the token's own; ``worker_id`` None is the only worker there.
    """

    server_url: str
    workspace: str | None
    worker_id: str | None
    token: str | None = field(repr=False)
    ca_bundle: Path | None = None

    def without_token(self, text: str) -> str:
        """Return ``text`` with every copy of the token replaced by ``[token]``."""
        return text.replace(self.token, "[token]") if self.token else text


class Worker:
    """The service of one worker. Each failure is a failure class with a reason of one line."""

    def __init__(
        self,
        server: Any,
        service: Any,
        worker_id: str,
        masked: Callable[[str], str],
        watch_s: float,
    ) -> None:
        """``watch_s`` is the pause between two checks that a worker with an open call exists."""
        self.server = server
        self._watch_s = watch_s
        self.worker_id = worker_id
        self._service = service
        self.masked = masked

    @property
    def workspace(self) -> str:
        """Return the worker's workspace, in which its applications register."""
        return self.worker_id.partition("/")[0]

    def has(self, method: str) -> bool:
        """Tell whether the worker offers this method."""
        return method in self._service

    async def ask(self, method: str, doing: str, timeout_s: float, **arguments: Any) -> Any:
        """Call a method of the worker within ``timeout_s`` seconds and return its answer.

        ``doing`` is used in error messages, e.g. ``to upload the app``. Raises Denied,
        ServiceFailed with the worker's reason, or ServiceGone when the worker does not answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._while_registered(self._service[method](**arguments), doing)
        except CourierError:
            raise
        except TimeoutError:
            raise ServiceGone(
                f"worker {self.worker_id} did not answer within {timeout_s:g} s when asked {doing}"
            ) from None
        except Exception as error:
            raise self._failure(error, doing) from None

    async def _while_registered(self, call: Awaitable[Any], doing: str) -> Any:
        """Wait for an answer while the worker is registered; Hypha does not report its death."""
        answer = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({answer}, timeout=self._watch_s))[0]:
                if self.worker_id not in await list_ids(
                    self.server, self.workspace, self.worker_id.rpartition(":")[2]
                ):
                    raise ServiceGone(
                        f"worker {self.worker_id} was lost when asked {doing}: it is no longer"
                        " registered"
                    )
            return answer.result()
        except TimeoutError:
            raise ServiceGone(
                f"worker {self.worker_id} sent no answer or heartbeat for {ANSWER_TIMEOUT_S:g} s"
                f" when asked {doing}"
            ) from None
        finally:
            answer.cancel()

    def _failure(self, error: Exception, doing: str) -> CourierError:
        text = self.masked(str(error))
        if not is_from_far_side(text):
            return ServiceGone(
                f"worker {self.worker_id} was lost when asked {doing}: {plain(text)}",
                name=type(error).__name__,
            )
        error_class = Denied if isinstance(translate(error, "worker"), Denied) else ServiceFailed
        return error_class(f"worker {self.worker_id} refuses {doing}: {reason_of(text)}")

    async def status_of(self, application_id: str, log_lines: int = 0) -> dict[str, Any]:
        """Return the worker's status of one application, ``NOT_RUNNING`` if it does not know it.

        The status contains the last ``log_lines`` lines of each replica. Raises as :meth:`ask`.
        """
        answer = await self.ask(
            "get_app_status",
            f"for the status of {application_id}",
            ANSWER_TIMEOUT_S,
            application_ids=[application_id],
            logs_tail=log_lines,
        )
        # For a single application some workers return its status without the level of the id.
        status = answer if "status" in answer else answer.get(application_id)
        return dict(self._without_token(status or {"status": "NOT_RUNNING"}))

    def _without_token(self, value: Any) -> Any:
        """Return a status with the token masked wherever a replica may have logged it."""
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, Mapping):
            return {key: self._without_token(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_token(each) for each in value]
        return value


@asynccontextmanager
async def connected_worker(address: WorkerAddress, watch_s: float = 2.0) -> AsyncIterator[Worker]:
    """Connect, find the worker and check that it can run the app.

    ``watch_s`` is the pause between two checks that a worker with an open call exists. Raises
    Denied, InputError when several workers match, ServiceGone when none matches, ServiceFailed
    when the worker is too old.
    """
    # The import takes a second, which commands without a worker need not spend.
    with root_logger_kept():
        from samservice.hypha.connection import connect, end_connection

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            server = await connect(
                address.server_url,
                token=address.token,
                workspace=address.workspace,
                silence_timeout_s=ANSWER_TIMEOUT_S,
                ca_bundle=address.ca_bundle,
            )
    except Exception as error:
        translated = translate_opening(error, "websocket", address.token)
        raise type(translated)(
            address.without_token(f"{address.server_url}: {translated}"), name=translated.name
        ) from None
    try:
        worker_id = await _find(server, address)
        yield await _check(server, worker_id, address, watch_s)
    finally:
        connection = server.rpc._connection
        if connection is not None:
            await end_connection(connection, CLOSE_TIMEOUT_S)


async def _find(server: Any, address: WorkerAddress) -> str:
    """Return the full id of the worker: ``workspace/client:bioengine-worker``."""
    wanted = address.worker_id or SERVICE_NAME
    prefix, _, name = wanted.rpartition("/")
    workspace = prefix or address.workspace or server.config["workspace"]
    found = await list_ids(server, workspace, name.rpartition(":")[2])
    if ":" in name:
        found = [full_id for full_id in found if full_id == f"{workspace}/{name}"]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"workspace {workspace} has {len(found)} BioEngine workers, expected one of them as"
            f" service.worker_id: {', '.join(found)}"
        )
    raise ServiceGone(
        f"no BioEngine worker {wanted!r} is registered in workspace {workspace} of"
        f" {address.server_url}; start it, or name it by service.worker_id"
    )


async def list_ids(server: Any, workspace: str, name: str) -> list[str]:
    """Return the full ids of the services of this name in a workspace, sorted."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            found = await server.list_services({"workspace": workspace, "service_id": name})
    except Exception as error:
        raise translate(error, "websocket") from None
    return sorted({str(each["id"]) for each in found})


async def _check(server: Any, worker_id: str, address: WorkerAddress, watch_s: float) -> Worker:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            service = await server.get_service(worker_id)
    except Exception as error:
        raise translate_opening(error, "websocket", address.token) from None
    worker = Worker(server, service, worker_id, address.without_token, watch_s)
    status = await worker.ask("get_status", "for its status", ANSWER_TIMEOUT_S)
    version = str(status.get("bioengine_version") or "unknown")
    if not worker.has("deploy_app") or _numbers(version) < OLDEST_VERSION:
        raise ServiceFailed(
            f"worker {worker_id} runs BioEngine {version}, which is too old for this app:"
            f" update the worker to BioEngine {'.'.join(map(str, OLDEST_VERSION))} or later"
            " (manifest format 0.6.0)",
            name="WorkerTooOld",
        )
    return worker


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def reason_of(text: str) -> str:
    """Return the message of a remote exception in one line, without the traceback.

    A message may have several lines, so all text after the exception's name belongs to it.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if _EXCEPTION_LINE.match(line)]
    message = " ".join(lines[starts[-1] :]) if starts else text
    return plain(_EXCEPTION_LINE.sub("", message, count=1)) or "no reason given"
