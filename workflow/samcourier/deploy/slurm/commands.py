"""SLURM's commands as functions: submit a script, ask after a job, cancel it.

Needs squeue, scontrol, sbatch and scancel; no accounting (sacct), which many clusters lack.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from msgspec import Struct

from ...errors import InputError, ServiceFailed

COMMAND_TIMEOUT_S = 60.0
#: squeue's states of a job that is over (the manual's "JOB STATE CODES"); it lists them for
#: MinJobAge seconds, and after that knows no such job.
OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
#: Those of a job whose node was taken from it or lost, through no fault of its own.
LOST = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"})
FORGOTTEN = "FORGOTTEN"
_UNKNOWN = "Invalid job id"


class SlurmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What to ask SLURM for; None leaves it to the cluster. ``extra`` are words for sbatch."""

    partition: str | None = None
    account: str | None = None
    gres: str | None = None
    time_min: int | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobState:
    """A job as squeue tells of it: ``reason`` is why it waits, or why it ended."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it will not run again."""
        return self.state in OVER or self.state == FORGOTTEN

    def __str__(self) -> str:
        if self.node and not self.is_over:
            return f"{self.state} on {self.node}"
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{reason}"


def sbatch_words(
    settings: SlurmSettings, job_name: str, log: str, cpus: float, memory_mb: int | None
) -> list[str]:
    """Return the command that submits a script from standard input.

    SLURM itself puts the job back when its node fails.
    """
    words = ["sbatch", "--parsable", "--requeue", f"--job-name={job_name}", f"--output={log}"]
    words += ["--open-mode=append", f"--cpus-per-task={max(1, round(cpus))}"]
    given = {
        "partition": settings.partition,
        "account": settings.account,
        "gres": settings.gres,
        "time": settings.time_min,
        "mem": memory_mb,
    }
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*words, *settings.extra]


def parse_submitted(said: str) -> str:
    """Return the job id that ``sbatch --parsable`` printed, ``id`` or ``id;cluster``."""
    found = re.search(r"^(\d+)(;.*)?$", said, re.MULTILINE)
    if found is None:
        raise ServiceFailed(f"sbatch printed no job id: {said.strip()!r}")
    return found[1]


def parse_state(said: str) -> JobState:
    """Return the state from ``squeue --noheader -o %T|%r|%N``; nothing said is a job forgotten."""
    line = said.strip().splitlines()[0] if said.strip() else ""
    state, _, rest = line.partition("|")
    reason, _, node = rest.partition("|")
    return JobState(state, reason, node) if state else JobState(FORGOTTEN)


def submit(command: list[str], script: str) -> str:
    """Submit ``script`` and return its job id. Raises ServiceFailed in sbatch's own words."""
    return parse_submitted(_run(command, script, _job_environment()))


def job_state(job_id: str) -> JobState:
    """Ask after a job. Raises ServiceFailed when SLURM does not answer."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "-o", "%T|%r|%N"]
    try:
        return parse_state(_run(command))
    except ServiceFailed as error:
        if _UNKNOWN in str(error):
            return JobState(FORGOTTEN)
        raise


def find_job(job_name: str) -> str | None:
    """Return the id of this user's newest job of that name that is not over, None without one.

    Raises ServiceFailed when SLURM does not answer.
    """
    command = ["squeue", "--noheader", "--states=all", f"--name={job_name}"]
    said = _run([*command, f"--user={os.getuid()}", "-o", "%i|%T"])
    jobs = re.findall(r"^(\d+)\|(\w+)$", said, re.MULTILINE)
    found = [int(job_id) for job_id, state in jobs if not JobState(state).is_over]
    return str(max(found)) if found else None


def cancel(job_id: str, job_name: str) -> None:
    """Cancel the job if it is there and has this name: ids come round again."""
    try:
        _run(["scancel", f"--name={job_name}", job_id])
    except ServiceFailed as error:
        if _UNKNOWN not in str(error):
            raise


def _job_environment() -> dict[str, str]:
    """Return what the job inherits.

    Not the token, which goes by its file: SLURM keeps the environment where administrators read.
    Nor what SLURM says of the job that this process may run in, which sbatch takes for options.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name != "HYPHA_TOKEN" and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }


def _run(
    command: list[str], given: str | None = None, environment: dict[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(
            command,
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise InputError(
            f"service.target slurm needs SLURM's commands ({command[0]} is not here):"
            " run on a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceFailed(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise ServiceFailed(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise ServiceFailed(f"{command[0]}: {said}")
    return done.stdout
