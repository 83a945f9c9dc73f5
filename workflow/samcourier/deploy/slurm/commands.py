"""SLURM's commands as functions: submit a script, get the state of a job, cancel it.

They need squeue, scontrol, sbatch and scancel, but not sacct, which many clusters lack.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from ...errors import InputError, ServiceFailed
from ...settings.run_settings import SlurmJobSettings

COMMAND_TIMEOUT_S = 60.0
#: squeue's states of a job that has ended (the manual's "JOB STATE CODES"). It lists the job for
#: MinJobAge seconds and then does not know it any more.
ENDED_STATES = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
#: The states of a job that was preempted, or whose node failed.
NODE_LOST_STATES = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"})
#: Replaces the state of a job that squeue does not list.
NOT_LISTED = "NOT_LISTED"
_UNKNOWN = "Invalid job id"


@dataclass(frozen=True)
class JobState:
    """The state of a job in squeue; ``reason`` is why it waits, or why it ended."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended and SLURM will not start it again."""
        return self.state in ENDED_STATES or self.state == NOT_LISTED

    def __str__(self) -> str:
        if self.node and not self.has_ended:
            return f"{self.state} on {self.node}"
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{reason}"


def sbatch_command(
    settings: SlurmJobSettings, job_name: str, log: str, cpus: float, memory_mb: int | None
) -> list[str]:
    """Return the command that submits a script from standard input.

    SLURM itself queues the job again when its node fails. ``memory_mb`` is for ``--mem``, None
    for the cluster's default.
    """
    command = ["sbatch", "--parsable", "--requeue", f"--job-name={job_name}", f"--output={log}"]
    command += ["--open-mode=append", f"--cpus-per-task={max(1, round(cpus))}"]
    given = {
        "partition": settings.partition,
        "account": settings.account,
        "gres": settings.gres,
        "time": settings.time_min,
        "mem": memory_mb,
    }
    command += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*command, *settings.extra]


def parse_submitted(output: str) -> str:
    """Return the job id in the output of ``sbatch --parsable``, ``id`` or ``id;cluster``.

    Raises ServiceFailed when the output has none.
    """
    found = re.search(r"^(\d+)(;.*)?$", output, re.MULTILINE)
    if found is None:
        raise ServiceFailed(f"sbatch printed no job id: {output.strip()!r}")
    return found[1]


def parse_state(output: str) -> JobState:
    """Return the state from ``squeue --noheader -o %T|%r|%N``; NOT_LISTED for an empty output."""
    line = output.strip().splitlines()[0] if output.strip() else ""
    state, _, rest = line.partition("|")
    reason, _, node = rest.partition("|")
    return JobState(state, reason, node) if state else JobState(NOT_LISTED)


def submit(command: list[str], script: str) -> str:
    """Submit ``script`` and return its job id. Raises ServiceFailed with sbatch's message."""
    return parse_submitted(_run(command, script, _job_environment()))


def job_state(job_id: str) -> JobState:
    """Return the state of a job. Raises ServiceFailed when SLURM does not answer."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "-o", "%T|%r|%N"]
    try:
        return parse_state(_run(command))
    except ServiceFailed as error:
        if _UNKNOWN in str(error):
            return JobState(NOT_LISTED)
        raise


def find_job(job_name: str) -> str | None:
    """Return the id of this user's newest job of that name that has not ended, None without one.

    Raises ServiceFailed when SLURM does not answer.
    """
    command = ["squeue", "--noheader", "--states=all", f"--name={job_name}"]
    output = _run([*command, f"--user={os.getuid()}", "-o", "%i|%T"])
    jobs = re.findall(r"^(\d+)\|(\w+)$", output, re.MULTILINE)
    found = [int(job_id) for job_id, state in jobs if not JobState(state).has_ended]
    return str(max(found)) if found else None


def cancel(job_id: str, job_name: str) -> None:
    """Cancel the job if it exists and has this name, since SLURM reuses ids.

    Raises ServiceFailed when SLURM does not answer.
    """
    try:
        _run(["scancel", f"--name={job_name}", job_id])
    except ServiceFailed as error:
        if _UNKNOWN not in str(error):
            raise


def _job_environment() -> dict[str, str]:
    """Return the environment of sbatch, which the job inherits.

    The token is left out, because administrators can read the environment in SLURM; the job reads
    the token from a file. The SLURM variables of a job in which this process may run are left out
    too, because sbatch would use them as options.
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
            f"service.target slurm needs SLURM's commands ({command[0]} is not installed"
            " here): run on a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceFailed(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise ServiceFailed(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise ServiceFailed(f"{command[0]}: {message}")
    return done.stdout
