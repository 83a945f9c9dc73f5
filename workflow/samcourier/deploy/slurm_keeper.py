"""Keeps a service's SLURM job while a run needs it: submits it, again when it is lost, ends it.

Runs detached beside the run as ``python -m samcourier.deploy.slurm_keeper DIRECTORY PLAN`` until
the run's process has ended (see :mod:`samcourier.deploy.owners`) or on SIGTERM. Should this process
be lost itself, the job ends by its idle limit.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import CourierError, ServiceFailed
from ..records import decode, read_json
from . import slurm_queue
from .owners import living_owners, process_identity
from .record import OWNERS_NAME, TOKEN_NAME, write_private
from .slurm_queue import JobState, SlurmSettings, sbatch_words

RECORD_NAME = "slurm.json"
NEEDED_NAME = "slurm.needed"

TICK_S = 1.0
LOOK_S = 10.0
#: How often the job is told that it is needed, and how long it lives without.
RENEW_S = 60.0
IDLE_LIMIT_S = 900.0
#: A service that was ready and is lost so early, and again, will not last.
SHORT_LIFE_S = 120.0
SHORT_LIVES = 3


@dataclass(frozen=True)
class SlurmPlan:
    """A service and the job it runs in. ``service_name`` is of this run alone."""

    service_name: str
    server_url: str
    workspace: str | None
    engine: str
    engine_options: dict[str, Any]
    settings: SlurmSettings
    cpus: float = 1.0
    memory_mb: int | None = None
    ca_bundle: str | None = None
    ice_urls: tuple[str, ...] = ()

    def script(self, directory: Path) -> str:
        """Return the job's script; the token stands in a file that it names."""
        words = [sys.executable, "-m", "samcourier.cli", "serve", "--engine", self.engine]
        words += ["--engine-options", json.dumps(self.engine_options, sort_keys=True)]
        words += ["--server-url", self.server_url, "--service-id", self.service_name]
        words += ["--token-file", str(directory / TOKEN_NAME)]
        words += ["--ice-servers", json.dumps([{"urls": url} for url in self.ice_urls])]
        words += ["--idle-limit-s", f"{IDLE_LIMIT_S:g}"]
        words += ["--owner-file", str(directory / NEEDED_NAME)]
        for option, value in (("--workspace", self.workspace), ("--ca-bundle", self.ca_bundle)):
            if value is not None:
                words += [option, value]
        return f"#!/bin/sh\nexec {shlex.join(words)}\n"

    def is_same_service(self, other: SlurmPlan) -> bool:
        """Tell whether both say the same but for the name."""
        return asdict(self) | {"service_name": ""} == asdict(other) | {"service_name": ""}


@dataclass(frozen=True)
class SlurmRecord:
    """What the keeper says: of which process, the plan, the job now, and why it gave up."""

    keeper: str
    plan: SlurmPlan
    job_id: str
    failure: str | None = None


def read_record(directory: Path) -> SlurmRecord | None:
    """Return the record, None when there is none or it cannot be read."""
    return decode(SlurmRecord, read_json(directory / RECORD_NAME))


def log_path(directory: Path, job_id: str) -> Path:
    """Return where the job writes what the service says."""
    return directory / f"slurm-{job_id}.log"


def is_ready(directory: Path, job_id: str) -> bool:
    """Tell whether the service of this job has once been ready."""
    try:
        return "\nready: " in "\n" + log_path(directory, job_id).read_text(errors="replace")
    except OSError:
        return False


class Queue(Protocol):
    """What the keeper needs of SLURM."""

    def submit(self, command: list[str], script: str) -> str: ...
    def job_state(self, job_id: str) -> JobState: ...
    def cancel(self, job_id: str, job_name: str) -> None: ...


@dataclass
class Keeper:
    """One service's job. ``is_needed`` tells whether the run still lives."""

    directory: Path
    plan: SlurmPlan
    is_needed: Callable[[], bool]
    say: Callable[[str], None]
    queue: Queue = field(default_factory=lambda: slurm_queue)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _job_id: str = ""
    _running_since_s: float | None = None
    _short_lives: int = 0

    def run(self) -> None:
        """Keep the job until it is not needed or is given up; no job and no token is left."""
        try:
            self._submit()
            looked_s = renewed_s = self.clock()
            while self.is_needed():
                now_s = self.clock()
                if now_s - renewed_s >= RENEW_S:
                    self._renew()
                    renewed_s = now_s
                if now_s - looked_s >= LOOK_S:
                    self._look()
                    looked_s = now_s
                self.sleep(TICK_S)
        except CourierError as error:
            self.say(str(error))
            self._write(failure=str(error))
        finally:
            self._end()

    def _submit(self) -> None:
        self._renew()
        log = str(log_path(self.directory, "%j"))
        plan = self.plan
        command = sbatch_words(plan.settings, plan.service_name, log, plan.cpus, plan.memory_mb)
        self._job_id = self.queue.submit(command, plan.script(self.directory))
        self._running_since_s = None
        self._write()
        self.say(f"submitted job {self._job_id}: {shlex.join(command)}")

    def _look(self) -> None:
        """Submit the job anew if it is over; raise ServiceFailed if that would not help."""
        try:
            state = self.queue.job_state(self._job_id)
        except ServiceFailed as error:
            self.say(f"SLURM cannot be asked just now: {error}")
            return
        if state.state == "RUNNING" and self._running_since_s is None:
            self._running_since_s = self.clock()
        if not state.is_over:
            return
        if not is_ready(self.directory, self._job_id):
            raise ServiceFailed(
                f"the service's job {self._job_id} ended before it was ready: {state}"
            )
        since_s = self._running_since_s
        is_short = since_s is None or self.clock() - since_s < SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        if self._short_lives >= SHORT_LIVES:
            raise ServiceFailed(
                f"the service's job {self._job_id} is over, {state}, the"
                f" {SHORT_LIVES}rd in a row after less than {SHORT_LIFE_S:g} s"
            )
        self.say(f"job {self._job_id} is over, {state}, and still needed")
        self._submit()

    def _renew(self) -> None:
        path = self.directory / NEEDED_NAME
        path.touch()

    def _write(self, failure: str | None = None) -> None:
        keeper = str(process_identity(os.getpid()))
        record = SlurmRecord(keeper, self.plan, self._job_id, failure)
        write_private(self.directory / RECORD_NAME, json.dumps(asdict(record), indent=1))

    def _end(self) -> None:
        if self._job_id:
            try:
                self.queue.cancel(self._job_id, self.plan.service_name)
                self.say(f"job {self._job_id} is cancelled")
            except CourierError as error:
                self.say(f"job {self._job_id} could not be cancelled: {error}")
        for name in (TOKEN_NAME, NEEDED_NAME):
            (self.directory / name).unlink(missing_ok=True)


def main(argv: list[str]) -> None:
    """Keep the job of the plan, JSON in ``argv``; what happens is said on standard error."""
    directory = Path(argv[0])
    plan = decode(SlurmPlan, json.loads(argv[1]))
    if plan is None:
        sys.exit(f"{argv[1]}: no plan")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))

    def is_needed() -> bool:
        return not stopped and bool(living_owners(directory / OWNERS_NAME))

    def say(line: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    Keeper(directory, plan, is_needed, say).run()


if __name__ == "__main__":
    main(sys.argv[1:])
