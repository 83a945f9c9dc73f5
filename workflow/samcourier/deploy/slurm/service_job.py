"""Start the supervisor of a service in a SLURM job, and find the service by its name in Hypha."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path

from msgspec import to_builtins
from msgspec.structs import replace

from ...errors import Denied, Overloaded, ServiceFailed, ServiceGone, TransportFailed
from ...files.atomic import write_private
from ...processes import is_elsewhere, is_running
from ...transports.base import Endpoint
from ..daemon import end_process, last_lines, one_at_a_time, start_detached
from ..local.record import OWNERS_NAME, TOKEN_NAME
from ..owners import add_run
from .commands import cancel, job_state
from .supervisor import (
    NEEDED_NAME,
    RECORD_NAME,
    RENEW_S,
    SlurmPlan,
    SlurmRecord,
    is_ready,
    log_path,
    read_record,
)

SUPERVISOR_LOG_NAME = "slurm.log"
CONNECT_TIMEOUT_S = 20.0
POLL_S = 2.0
#: A server that this machine has never reached within this time counts as unreachable.
UNREACHED_S = 120.0
#: Above the timeouts of five SLURM commands: when asked to end, the supervisor may have to get the
#: state of its job, look for another, submit one, look for that one, and cancel it.
START_TIMEOUT_S = STOP_TIMEOUT_S = 320.0
LOG_LINES = 15
#: A supervisor on another host that renewed no file for this long has ended.
SILENCE_LIMIT_S = 4 * RENEW_S

logger = logging.getLogger("samcourier.deploy")


def deploy_job(directory: Path, plan: SlurmPlan, token: str | None, timeout_s: float) -> None:
    """Start the service if it is missing or differs from the plan, and wait until it is ready.

    A supervisor process submits the job and ends it with the run (the process in
    SAMCOURIER_RUN_PID, this one if it is not set).

    Args:
        directory: The folder of the record, the token and the logs.
        plan: The planned service; its name is set here.
        token: The Hypha token with which the service registers.
        timeout_s: The seconds within which the service must be ready.

    Raises Denied without a token, and ServiceFailed with the end of the job's log.
    """
    if token is None:
        raise Denied(
            "service.target slurm needs a token, with which the service registers:"
            " set HYPHA_TOKEN or service.token_file"
        )
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(directory):
        record = read_record(directory)
        if record is not None:
            _check_host(directory, record)
        add_run(directory / OWNERS_NAME)
        if record is None or not _is_supervised(record) or not record.plan.is_same_service(plan):
            undeploy_job(directory)
            plan = replace(plan, service_name=f"samservice-{secrets.token_hex(4)}")
            write_private(directory / TOKEN_NAME, token)
            _start_supervisor(directory, plan)
        _wait_until_ready(directory, timeout_s)


def undeploy_job(directory: Path) -> None:
    """End the recorded supervisor and its job, if they exist."""
    directory = directory.resolve()
    record = read_record(directory)
    if record is None:
        return
    end_process(record.keeper, STOP_TIMEOUT_S)
    # It may have submitted another job before it ended.
    record = read_record(directory) or record
    if record.job_id:
        # A supervisor that was killed leaves its job.
        cancel(record.job_id, record.plan.service_name)
        _log(record.job_id, "the service's job %s is cancelled")
    for name in (RECORD_NAME, TOKEN_NAME, NEEDED_NAME):
        (directory / name).unlink(missing_ok=True)


def recorded_plan(directory: Path) -> SlurmPlan:
    """Return the plan of the deployed service; raise ServiceGone when there is none."""
    record = read_record(directory)
    if record is None:
        raise ServiceGone(
            f"{directory / RECORD_NAME} records no service; run samcourier deploy to start it"
        )
    if record.failure is not None:
        raise ServiceGone(record.failure)
    return record.plan


async def wait_until_registered(endpoint: Endpoint, timeout_s: float, where: Path) -> None:
    """Wait until the service is registered: its job may have been lost and submitted again.

    The function also waits for a server that does not answer, but only ``UNREACHED_S`` for one
    that it has never reached. ``where`` is the folder of the supervisor's log, for the message.

    Raises Denied, TransportFailed for a server that was never reached, or ServiceGone with the
    last reason after ``timeout_s`` seconds.
    """
    # The import takes a second, which commands without a connection need not spend.
    from ...transports.session import HyphaSession, list_services

    session, user = HyphaSession(endpoint), object()
    begun_s, was_reached = time.monotonic(), False
    try:
        while True:
            reason = ""
            try:
                server = await session.server(CONNECT_TIMEOUT_S, user)
                was_reached = True
                if await list_services(server, endpoint):
                    return
            except (TransportFailed, Overloaded) as error:
                reason = f" (last: {error})"
                waited_s = time.monotonic() - begun_s
                if not was_reached and waited_s > min(UNREACHED_S, timeout_s):
                    raise
            if time.monotonic() - begun_s > timeout_s:
                raise ServiceGone(
                    f"the service {endpoint.service_id} was not registered for {timeout_s:g} s"
                    f"{reason}, see {where / SUPERVISOR_LOG_NAME}"
                )
            await asyncio.sleep(POLL_S)
    finally:
        await session.release(user)


def _is_supervised(record: SlurmRecord) -> bool:
    return record.failure is None and is_running(record.keeper)


def _check_host(directory: Path, record: SlurmRecord) -> None:
    """Raise ServiceFailed while a supervisor on another host renews the file of its job."""
    if record.failure is not None or not is_elsewhere(record.keeper):
        return
    try:
        silence_s = time.time() - (directory / NEEDED_NAME).stat().st_mtime
    except OSError:
        return
    if silence_s < SILENCE_LIMIT_S:
        raise ServiceFailed(
            f"{directory / RECORD_NAME}: the service's job {record.job_id} is supervised on another"
            f" host, {max(silence_s, 0):.0f} s ago for the last time, expected one host for the"
            " runs of a results folder: run there, or wait until that run has ended"
        )


def _start_supervisor(directory: Path, plan: SlurmPlan) -> None:
    (directory / RECORD_NAME).unlink(missing_ok=True)
    module = ["-m", "samcourier.deploy.slurm.supervisor"]
    command = [sys.executable, *module, str(directory), json.dumps(to_builtins(plan))]
    try:
        start_detached(
            "the supervisor of the service's job",
            command,
            directory / SUPERVISOR_LOG_NAME,
            lambda process: read_record(directory),
            START_TIMEOUT_S,
        )
    except ServiceFailed:
        (directory / TOKEN_NAME).unlink(missing_ok=True)
        raise


def _wait_until_ready(directory: Path, timeout_s: float) -> None:
    """Wait until the service is ready, and log each new state of its job."""
    record, shown = None, ""
    deadline_s = time.monotonic() + timeout_s
    while True:
        record = read_record(directory) or record
        if record is None or not _is_supervised(record):
            failure = (record and record.failure) or "the supervisor of the service's job has ended"
            raise ServiceFailed(f"{failure}{_end_of_log(directory, record)}")
        became_ready = False
        with suppress(OSError):
            became_ready = is_ready(directory, record.job_id)
        if became_ready:
            _log(record.job_id, "the service's job %s is ready")
            return
        state = _state_in_words(record.job_id)
        if state != shown:
            _log(record.job_id, "waiting for SLURM: job %s %s", state)
            shown = state
        if time.monotonic() > deadline_s:
            undeploy_job(directory)
            raise ServiceFailed(
                f"the service's job {record.job_id} was not ready within {timeout_s:g} s,"
                f" last state {state}{_end_of_log(directory, record)}"
            )
        time.sleep(POLL_S)


def _log(job_id: str, message: str, *details: object) -> None:
    logger.info(message, job_id, *details, extra={"job": job_id})


def _state_in_words(job_id: str) -> str:
    """Return the job's state for the log; if SLURM does not answer, the reason."""
    try:
        return str(job_state(job_id))
    except ServiceFailed as error:
        return f"has an unknown state: {error}"


def _end_of_log(directory: Path, record: SlurmRecord | None) -> str:
    if record is None or not record.job_id:
        return ""
    path = log_path(directory, record.job_id)
    last = last_lines(path, LOG_LINES)
    return f"; {path} ends:\n{last}" if last else f"; {path} is empty"
