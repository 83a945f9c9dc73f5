"""The supervisor of a service's SLURM job: it submits the job, replaces a lost one, and ends it.

It runs detached from the run as ``python -m samcourier.deploy.slurm.supervisor DIRECTORY PLAN``
until the run's process has ended (see :mod:`samcourier.deploy.owners`) or on SIGTERM. If this
process is killed, the job ends by its idle limit.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from ...errors import CourierError, ServiceFailed
from ...files import records
from ...files.atomic import write_private
from ...files.strict_json import parse_json
from ...processes import process_identity
from ...settings.run_settings import SlurmJobSettings
from ..daemon import is_own_file, log_to_stderr
from ..local.record import OWNERS_NAME, TOKEN_NAME
from ..owners import OwnerMonitor
from . import commands as slurm_queue
from .commands import NODE_LOST_STATES, JobState, sbatch_command

logger = logging.getLogger("samcourier.deploy")

RECORD_NAME = "slurm.json"
NEEDED_NAME = "slurm.needed"

TICK_S = 1.0
CHECK_INTERVAL_S = 10.0
#: How often the file is touched that keeps the job running, and how long it runs without.
RENEW_S = 60.0
IDLE_LIMIT_S = 900.0
#: The supervisor gives up after this many jobs in a row that ended before this time.
SHORT_LIFE_S = 120.0
SHORT_LIVES = 3
#: For how long the supervisor tries to submit another job for a lost one.
SUBMIT_LIMIT_S = 1800.0


class SlurmPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """A service and its job. ``service_name`` is unique to this run."""

    service_name: str
    server_url: str
    workspace: str | None
    engine: str
    engine_options: dict[str, Any]
    settings: SlurmJobSettings
    cpus: float = 1.0
    memory_mb: int | None = None
    ca_bundle: str | None = None
    ice_urls: tuple[str, ...] = ()
    max_stage_s: float | None = None

    def script(self, directory: Path) -> str:
        """Return the job's script; it contains the path of the token's file, not the token."""
        command = [sys.executable, "-m", "samcourier.cli", "serve", "--engine", self.engine]
        command += ["--engine-options", json.dumps(self.engine_options, sort_keys=True)]
        command += ["--server-url", self.server_url, "--service-id", self.service_name]
        command += ["--token-file", str(directory / TOKEN_NAME)]
        command += ["--ice-servers", json.dumps([{"urls": url} for url in self.ice_urls])]
        command += ["--idle-limit-s", f"{IDLE_LIMIT_S:g}"]
        command += ["--owner-file", str(directory / NEEDED_NAME)]
        max_stage_s = None if self.max_stage_s is None else f"{self.max_stage_s:g}"
        for option, value in (
            ("--workspace", self.workspace),
            ("--ca-bundle", self.ca_bundle),
            ("--max-stage-s", max_stage_s),
        ):
            if value is not None:
                command += [option, value]
        return f"#!/bin/sh\nexec {shlex.join(command)}\n"

    def is_same_service(self, other: SlurmPlan) -> bool:
        """Tell whether both plans are equal except for the service's name and time limit."""
        same = replace(self, service_name=other.service_name, max_stage_s=other.max_stage_s)
        return same == other


class SlurmRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The supervisor's record: its process, the plan, the present job, and why it gave up."""

    keeper: str
    plan: SlurmPlan
    job_id: str
    failure: str | None = None


def read_record(directory: Path) -> SlurmRecord | None:
    """Return the record, None when there is none or it cannot be read."""
    return records.read_record(directory / RECORD_NAME, SlurmRecord)


def log_path(directory: Path, job_id: str) -> Path:
    """Return the path of the job's log."""
    return directory / f"slurm-{job_id}.log"


def is_ready(directory: Path, job_id: str) -> bool:
    """Tell whether the service of this job has ever been ready.

    Raises OSError when its log cannot be read at present.
    """
    try:
        return "\nready: " in "\n" + log_path(directory, job_id).read_text(errors="replace")
    except FileNotFoundError:
        # When its folder is missing too, the file system is not mounted.
        if not directory.is_dir():
            raise
        return False


class Queue(Protocol):
    """The functions of SLURM that the supervisor needs."""

    def submit(self, command: list[str], script: str) -> str: ...
    def job_state(self, job_id: str) -> JobState: ...
    def find_job(self, job_name: str) -> str | None: ...
    def cancel(self, job_id: str, job_name: str) -> None: ...


@dataclass
class Supervisor:
    """Supervises the SLURM job of one service.

    Attributes:
        directory: The folder of the record, the token and the logs.
        plan: The service and its job.
        is_needed: Tells whether the run still needs the service; it raises ServiceFailed to make
            the supervisor give up the job.
        queue: The functions of SLURM.
        clock: Returns monotonic seconds.
        sleep: Waits for some seconds.
    """

    directory: Path
    plan: SlurmPlan
    is_needed: Callable[[], bool]
    queue: Queue = field(default_factory=lambda: slurm_queue)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _job_id: str = ""
    _recorded_id: str = ""
    _running_since_s: float | None = None
    _was_ready: bool = False
    _short_lives: int = 0
    #: Since when the job has ended and no other is known to be queued.
    _missing_since_s: float | None = None

    @property
    def _fields(self) -> dict[str, str]:
        return {"job": self._job_id, "service": self.plan.service_name}

    def run(self) -> None:
        """Keep a job running until it is not needed or given up; end it and remove the token."""
        try:
            self._missing_since_s = self.clock()
            self._submit()
            self._write()
            self._supervise()
        except (CourierError, OSError) as error:
            logger.error("%s", error, extra=self._fields)
            with suppress(OSError):
                self._write(failure=str(error))
        finally:
            self._end()

    def _supervise(self) -> None:
        renewed_s = checked_s = self.clock()
        while self.is_needed():
            now_s = self.clock()
            if now_s - renewed_s >= RENEW_S:
                renewed_s = now_s
                self._try(self._renew)
            if now_s - checked_s >= CHECK_INTERVAL_S:
                checked_s = now_s
                self._try(self._check)
            self.sleep(TICK_S)

    def _try(self, act: Callable[[], None]) -> None:
        """Call ``act``; log an error of the file system, since the next call may succeed."""
        try:
            act()
        except OSError as error:
            logger.warning("the file system failed, will try again: %s", error, extra=self._fields)

    def _check(self) -> None:
        """Check the job and replace it if it has ended; raise ServiceFailed if that is useless."""
        if self._missing_since_s is None:
            self._check_job()
        if self._missing_since_s is not None:
            self._replace_job(self._missing_since_s)
        if self._recorded_id != self._job_id:
            self._write()

    def _check_job(self) -> None:
        try:
            state = self.queue.job_state(self._job_id)
        except CourierError as error:
            logger.warning("SLURM did not answer, will try again: %s", error, extra=self._fields)
            return
        if state.state == "RUNNING" and self._running_since_s is None:
            self._running_since_s = self.clock()
        if state.has_ended:
            self._count_life(state)
            logger.warning(
                "job %s has ended, state %s, but the run still needs it",
                self._job_id,
                state,
                extra=self._fields,
            )
            self._missing_since_s = self.clock()

    def _count_life(self, state: JobState) -> None:
        """Count jobs that ended early in a row; raise ServiceFailed if another would also fail."""
        is_short = True
        if is_ready(self.directory, self._job_id):
            self._was_ready = True
            since_s = self._running_since_s
            is_short = since_s is None or self.clock() - since_s < SHORT_LIFE_S
        elif not (
            state.state in NODE_LOST_STATES or (state.state == "CANCELLED" and self._was_ready)
        ):
            raise ServiceFailed(
                f"the service's job {self._job_id} ended before it was ready: {state}"
            )
        self._short_lives = self._short_lives + 1 if is_short else 0
        if self._short_lives >= SHORT_LIVES:
            raise ServiceFailed(
                f"the service's job {self._job_id} has ended, state {state}, the"
                f" {SHORT_LIVES}rd in a row that ended before it was ready or after less than"
                f" {SHORT_LIFE_S:g} s"
            )

    def _replace_job(self, missing_since_s: float) -> None:
        """Submit another job, unless one is queued that sbatch did not confirm in time."""
        try:
            found = self.queue.find_job(self.plan.service_name)
            if found is None:
                self._submit()
            else:
                self._set_job(found)
                logger.info("job %s is queued already", found, extra=self._fields)
        except (CourierError, OSError) as error:
            if self.clock() - missing_since_s >= SUBMIT_LIMIT_S:
                raise ServiceFailed(
                    f"no other job could be submitted for {SUBMIT_LIMIT_S / 60:g} min: {error}"
                ) from None
            logger.warning(
                "cannot submit another job, will try again: %s", error, extra=self._fields
            )

    def _submit(self) -> None:
        self._renew()
        log = str(log_path(self.directory, "%j"))
        plan = self.plan
        command = sbatch_command(plan.settings, plan.service_name, log, plan.cpus, plan.memory_mb)
        self._set_job(self.queue.submit(command, plan.script(self.directory)))
        shown = shlex.join(command)
        logger.info("submitted job %s: %s", self._job_id, shown, extra=self._fields)

    def _set_job(self, job_id: str) -> None:
        self._job_id = job_id
        self._missing_since_s = self._running_since_s = None

    def _renew(self) -> None:
        (self.directory / NEEDED_NAME).touch()

    def _write(self, failure: str | None = None) -> None:
        supervisor = str(process_identity(os.getpid()))
        record = SlurmRecord(supervisor, self.plan, self._job_id, failure)
        write_private(self.directory / RECORD_NAME, json.dumps(to_builtins(record), indent=1))
        self._recorded_id = self._job_id

    def _end(self) -> None:
        try:
            if self._missing_since_s is not None:
                # A job that SLURM did not confirm may be queued.
                self._job_id = self.queue.find_job(self.plan.service_name) or self._job_id
            if self._job_id:
                self.queue.cancel(self._job_id, self.plan.service_name)
                logger.info("job %s is cancelled", self._job_id, extra=self._fields)
        except CourierError as error:
            logger.error("the service's job could not be cancelled: %s", error, extra=self._fields)
        for name in (TOKEN_NAME, NEEDED_NAME):
            if not is_own_file(self.directory / name):
                continue
            self._try(partial((self.directory / name).unlink, missing_ok=True))


def main(argv: list[str]) -> None:
    """Supervise the job of the plan; ``argv`` are the folder and the plan as JSON."""
    log_to_stderr()
    directory = Path(argv[0])
    plan = records.decode(SlurmPlan, parse_json(argv[1]))
    if plan is None:
        sys.exit(f"{argv[1]} is not a plan of a SLURM job")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))

    owners = OwnerMonitor(directory / OWNERS_NAME)
    Supervisor(directory, plan, lambda: not stopped and owners.is_needed()).run()


if __name__ == "__main__":
    main(sys.argv[1:])
