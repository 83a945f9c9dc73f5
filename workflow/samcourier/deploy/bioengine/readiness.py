"""Wait until an application on a BioEngine worker runs, and until it answers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from ...errors import CourierError, Denied, ServiceFailed, ServiceGone
from ...failure import Failure
from ...formatting import plain
from ...results.service_description import ServiceDescription, checked_description
from ...transports.known_defects import OTHER, find_defect
from ...transports.translate import translate
from .app import AppPlan
from .log_tail import LogTail
from .worker import ANSWER_TIMEOUT_S, Worker, list_ids

logger = logging.getLogger("samcourier.deploy")

FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
GONE = "NOT_RUNNING"

LOG_LINES = 50

_NEW_TOKEN = (
    "the app keeps the token that it was deployed with; undeploy and deploy it to give it a new one"
)


@dataclass(frozen=True)
class PollingIntervals:
    """The polling intervals and limits in seconds.

    Attributes:
        poll_s: The pause between two requests to the worker.
        direct_s: How long to wait for the app's own endpoint before the proxy is used.
        end_s: How long to wait until a stopped application is removed.
    """

    poll_s: float = 2.0
    direct_s: float = 60.0
    end_s: float = 120.0


@dataclass(frozen=True)
class AppServices:
    """The ids of the services of an app, for :class:`~samcourier.transports.base.Endpoint`.

    ``without_direct`` says why the ids are those of BioEngine's proxy; None if they are not.
    """

    service_id: str
    rtc_service_id: str
    without_direct: str | None = None


async def wait_until_running(
    worker: Worker, plan: AppPlan, deadline: float, polling: PollingIntervals
) -> dict[str, Any]:
    """Poll the worker until the application runs, and log its changes and its replicas' logs.

    ``deadline`` is in seconds of ``time.monotonic``. Returns the last status. Raises ServiceFailed
    with the worker's reason, and ServiceGone when the application was removed.
    """
    log, shown = LogTail(), ""
    while True:
        status = await worker.status_of(plan.application_id, LOG_LINES)
        state, message = status["status"], plain(str(status.get("message") or ""))
        ids = status.get("service_ids") or {}
        is_up = state == "RUNNING" and bool(ids.get("websocket_service_id"))
        # The earlier log of an application that already runs is not logged.
        if shown or not is_up:
            log.log_new(status)
        if (line := f"{state}: {message}".rstrip(": ")) != shown:
            shown = line
            logger.info("%s", line, extra={"application": plan.application_id})
        if state in FAILED:
            raise ServiceFailed(
                f"worker {worker.worker_id} could not deploy {plan.application_id}, {state}:"
                f" {_reason_and_advice(status)}",
                name=state,
            )
        if state in (GONE, "DELETING"):
            raise ServiceGone(
                f"application {plan.application_id} disappeared from worker {worker.worker_id}"
                " during its deployment: somebody stopped it, or the worker restarted"
            )
        if is_up:
            return status
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"application {plan.application_id} was not running within"
                f" service.deploy_timeout_s, last {shown}"
            )
        await asyncio.sleep(polling.poll_s)


def _reason_and_advice(status: dict[str, Any]) -> str:
    reason = _reason(status)
    defect = find_defect(Failure("service", "", reason), "bioengine", "open")
    return reason if defect is OTHER else f"{reason} ({defect.name}: {defect.advice})"


def _reason(status: dict[str, Any]) -> str:
    """Return the messages of the unhealthy deployments, else of the application, in one line."""
    parts = (status.get("deployments") or {}).values()
    messages = [str(part["message"]) for part in parts if part.get("message")]
    return plain("; ".join(messages) or str(status.get("message") or "")) or "no reason given"


async def wait_for_answer(
    worker: Worker,
    plan: AppPlan,
    status: dict[str, Any],
    deadline: float,
    polling: PollingIntervals,
) -> AppServices:
    """Call the app until it answers: at its own endpoint, after ``direct_s`` also over the proxy.

    ``status`` is the worker's answer for the application, ``deadline`` is in seconds of
    ``time.monotonic``. Raises Denied, or the failure of the last call after the deadline.
    """
    direct_deadline = min(deadline, time.monotonic() + polling.direct_s)
    while True:
        found = await find_direct_services(worker, plan)
        if found is None and time.monotonic() > direct_deadline:
            found = proxy_services(status, await _why_not_direct(worker, status))
        if found is not None:
            try:
                description = await _describe(worker, found)
                fields = {"service": found.service_id}
                engine = plain(str(description.engine))
                logger.info("%s answers: engine %s", found.service_id, engine, extra=fields)
                if found.without_direct:
                    why = found.without_direct
                    logger.warning("the app's own endpoint is missing: %s", why, extra=fields)
                    logger.warning(_NEW_TOKEN, extra=fields)
                return found
            except CourierError as error:
                if isinstance(error, Denied) or time.monotonic() > deadline:
                    why = f" (the app's own endpoint: {found.without_direct}; {_NEW_TOKEN})"
                    failure = f"{error}{why if found.without_direct else ''}"
                    raise type(error)(
                        f"application {plan.application_id} runs, but does not answer:"
                        f" {worker.masked(failure)}",
                        name=error.name,
                    ) from None
        await asyncio.sleep(polling.poll_s)


async def find_direct_services(worker: Worker, plan: AppPlan) -> AppServices | None:
    """Return the ids of the app's own endpoint, which has all replicas; None without one."""
    if not await list_ids(worker.server, worker.workspace, plan.direct_name):
        return None
    service_id = f"{worker.workspace}/{plan.direct_name}"
    return AppServices(service_id, f"{service_id}-rtc")


def proxy_services(status: dict[str, Any], why: str) -> AppServices:
    """Return the ids of BioEngine's proxy services; ``why`` the app's own endpoint is missing."""
    ids = status["service_ids"]
    return AppServices(ids["websocket_service_id"], ids["webrtc_service_id"], why)


async def _why_not_direct(worker: Worker, status: dict[str, Any]) -> str:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            proxy = await worker.server.get_service(status["service_ids"]["websocket_service_id"])
            answer = await proxy.direct_ids()
    except Exception as error:
        return plain(worker.masked(str(translate(error, "websocket"))))
    return plain(worker.masked(str(answer.get("unavailable") or "it is not registered")))


async def _describe(worker: Worker, found: AppServices) -> ServiceDescription:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            service = await worker.server.get_service(found.service_id)
            answer = await service.describe()
    except Exception as error:
        raise translate(error, "websocket") from None
    return ServiceDescription.of(checked_description(answer))
