"""The keeper of a service's job, against a SLURM that acts by script and a clock that jumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from samcourier.deploy.record import TOKEN_NAME
from samcourier.deploy.slurm_keeper import (
    LOOK_S,
    NEEDED_NAME,
    Keeper,
    SlurmPlan,
    log_path,
    read_record,
)
from samcourier.deploy.slurm_queue import JobState, SlurmSettings
from samcourier.errors import ServiceFailed

PLAN = SlurmPlan("samservice-1", "https://h", None, "watershed", {}, SlurmSettings("gpu"))
#: How long the script's words last: one look each.
AWAY = "AWAY"


class ScriptedQueue:
    """Gives each job its states, one a look; ``ready`` are the jobs whose service came up."""

    def __init__(self, directory: Path, jobs: Sequence[list[str]], ready: str) -> None:
        self._directory = directory
        self._jobs = [list(states) for states in jobs]
        self._ready = ready
        self.submitted: list[str] = []
        self.cancelled: list[str] = []

    @property
    def has_ended(self) -> bool:
        return not any(self._jobs)

    def submit(self, command: list[str], script: str) -> str:
        job_id = str(len(self.submitted) + 1)
        self.submitted.append(job_id)
        text = "ready: ws/c:samservice-1 on https://h\n" if job_id in self._ready else "loading\n"
        log_path(self._directory, job_id).write_text(text)
        return job_id

    def job_state(self, job_id: str) -> JobState:
        state = self._jobs[int(job_id) - 1].pop(0)
        if state == AWAY:
            raise ServiceFailed("squeue: Unable to contact slurm controller")
        return JobState(state)

    def cancel(self, job_id: str, job_name: str) -> None:
        assert job_name == PLAN.service_name
        self.cancelled.append(job_id)


def keep(directory: Path, jobs: Sequence[list[str]], ready: str) -> tuple[ScriptedQueue, list[str]]:
    """Run a keeper until the script is at its end, when the run has ended too."""
    queue, said, now_s = ScriptedQueue(directory, jobs, ready), [], [0.0]
    (directory / TOKEN_NAME).write_text("secret")

    def sleep(seconds: float) -> None:
        now_s[0] += LOOK_S

    Keeper(
        directory,
        PLAN,
        is_needed=lambda: not queue.has_ended,
        say=said.append,
        queue=queue,
        clock=lambda: now_s[0],
        sleep=sleep,
    ).run()
    return queue, said


LONG = ["RUNNING"] * 15


@pytest.mark.parametrize(
    ("jobs", "ready", "submitted", "last_words"),
    [
        ([["PENDING", "RUNNING", "RUNNING"]], "1", 1, "job 1 is cancelled"),
        ([[*LONG, "TIMEOUT"], LONG], "12", 2, "job 2 is cancelled"),
        ([["RUNNING", "CANCELLED"], LONG], "12", 2, "job 2 is cancelled"),
        ([[*LONG, "FORGOTTEN"], LONG], "12", 2, "job 2 is cancelled"),
        ([["RUNNING", AWAY, AWAY, "RUNNING"]], "1", 1, "job 1 is cancelled"),
        # SLURM itself puts a job back whose node was lost.
        ([["RUNNING", "PENDING", "RUNNING"]], "1", 1, "job 1 is cancelled"),
    ],
)
def test_the_job_is_there_as_long_as_the_run_and_no_longer(
    tmp_path: Path, jobs: list[list[str]], ready: str, submitted: int, last_words: str
) -> None:
    queue, said = keep(tmp_path, jobs, ready)
    assert len(queue.submitted) == submitted
    assert queue.cancelled == [str(submitted)]
    assert said[-1] == last_words
    record = read_record(tmp_path)
    assert record is not None
    assert (record.job_id, record.failure) == (str(submitted), None)
    assert not (tmp_path / TOKEN_NAME).exists()
    assert not (tmp_path / NEEDED_NAME).exists()


@pytest.mark.parametrize(
    ("jobs", "ready", "failure"),
    [
        ([["PENDING", "FAILED", ""]], "", "job 1 ended before it was ready: FAILED"),
        ([[*LONG, "TIMEOUT"], ["FAILED", ""]], "1", "job 2 ended before it was ready: FAILED"),
        (
            [["RUNNING", "FAILED"]] * 3 + [["", ""]],
            "123",
            "job 3 is over, FAILED, the 3rd in a row",
        ),
    ],
)
def test_a_job_that_will_not_last_is_not_submitted_for_ever(
    tmp_path: Path, jobs: list[list[str]], ready: str, failure: str
) -> None:
    queue, said = keep(tmp_path, jobs, ready)
    record = read_record(tmp_path)
    assert record is not None
    assert failure in str(record.failure)
    assert any(failure in line for line in said)
    assert len(queue.submitted) == len([job for job in jobs if job != ["", ""]])


def test_the_script_serves_under_the_runs_name_and_holds_no_token(tmp_path: Path) -> None:
    plan = replace(PLAN, engine_options={"model": "vit b"}, workspace="w", ice_urls=("stun:s",))
    script = plan.script(tmp_path)
    assert 'serve --engine watershed --engine-options \'{"model": "vit b"}\'' in script
    assert "--service-id samservice-1" in script
    assert f"--token-file {tmp_path}/token" in script
    assert f"--owner-file {tmp_path}/slurm.needed" in script
    assert script.rstrip().endswith("--workspace w")
