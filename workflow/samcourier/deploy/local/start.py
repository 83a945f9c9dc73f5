"""Start the local service when it is needed, once for all jobs of a run."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...transports.base import Endpoint
from ..daemon import end_process, one_at_a_time, start_detached
from ..owners import add_owner, add_run
from .record import LOG_NAME, OWNERS_NAME, TOKEN_NAME, LocalRecord, read_local_record

START_TIMEOUT_S = 300.0
#: Above the time in which the service ends its images and sends their answers.
STOP_TIMEOUT_S = 30.0


def ensure_local_service(
    directory: Path,
    engine: str,
    engine_options: dict[str, Any],
    max_stage_s: float | None = None,
) -> Endpoint:
    """Return the endpoint of a running local service with this engine, starting it if needed.

    The service runs until the process in SAMCOURIER_RUN_PID (this one if it is not set) has ended.
    ``directory`` holds its record, token and log. A stage of an image hangs after ``max_stage_s``
    seconds, by default those of :class:`samservice.server.app.Limits`.

    Raises InputError without the extra ``local``, and ServiceFailed with the last line of the
    service's log when the service does not start.
    """
    require_local_extra("service.target local")
    directory = directory.resolve()
    owners = directory / OWNERS_NAME
    add_run(owners)
    # This process is an owner too: a job may outlive a killed Snakemake and still need its service.
    add_owner(owners, os.getpid())
    with one_at_a_time(directory):
        record = read_local_record(directory)
        if record is None or not record.serves(engine, engine_options):
            if record is not None:
                stop_local_service(directory)
            record = _start(directory, engine, engine_options, max_stage_s)
    return Endpoint(
        server_url=record.server_url,
        workspace=record.workspace,
        service_id=record.service_id,
        rtc_service_id=record.rtc_service_id,
        token=(directory / TOKEN_NAME).read_text(),
    )


def require_local_extra(what: str) -> None:
    """Raise InputError, with ``what`` needs it, unless the extra ``local`` is installed."""
    for package in ("hypha", "scipy", "skimage"):
        if find_spec(package) is None:
            raise InputError(
                f"{what} needs the extra [local] ({package} is not installed):"
                " pip install 'samcourier[local]'"
            )


def _start(
    directory: Path, engine: str, engine_options: dict[str, Any], max_stage_s: float | None
) -> LocalRecord:
    command = [sys.executable, "-m", "samcourier.deploy.local.supervisor", str(directory)]
    command += ["--engine", engine, "--engine-options", json.dumps(engine_options)]
    if max_stage_s is not None:
        command += ["--max-stage-s", f"{max_stage_s:g}"]

    def find_record(process: str | None) -> LocalRecord | None:
        record = read_local_record(directory)
        return record if record is not None and record.process == process else None

    log_path = directory / LOG_NAME
    return start_detached("the local service", command, log_path, find_record, START_TIMEOUT_S)


def stop_local_service(directory: Path) -> None:
    """End the recorded service, if it runs, and wait until it has ended."""
    record = read_local_record(directory)
    if record is not None:
        end_process(record.process, STOP_TIMEOUT_S)
