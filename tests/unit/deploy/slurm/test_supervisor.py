"""The supervisor of a service's job, against a SLURM that acts by script and a clock that jumps."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from samcourier.deploy.local.record import TOKEN_NAME
from samcourier.deploy.slurm import supervisor as slurm_keeper
from samcourier.deploy.slurm.commands import JobState
from samcourier.deploy.slurm.supervisor import (
    CHECK_INTERVAL_S,
    NEEDED_NAME,
    SlurmPlan,
    Supervisor,
    is_ready,
    log_path,
    main,
    read_record,
)
from samcourier.errors import ServiceFailed
from samcourier.settings.run_settings import SlurmJobSettings

PLAN = SlurmPlan("samservice-1", "https://h", None, "watershed", {}, SlurmJobSettings("gpu"))
#: How long the script's words last: one look each.
AWAY = "AWAY"
#: What becomes of an sbatch: no job, or one whose id is not heard.
TAKEN, REFUSED, UNHEARD = "taken", "refused", "unheard"


class ScriptedQueue:
    """Gives each job its states, one a look; ``ready`` are the jobs whose service came up.

    ``sbatch`` is what becomes of each submission, those after the last are taken.
    """

    def __init__(
        self, directory: Path, jobs: Sequence[list[str]], ready: str, sbatch: Sequence[str] = ()
    ) -> None:
        self._directory = directory
        self._jobs = [list(states) for states in jobs]
        self._ready = ready
        self._sbatch = iter(sbatch)
        self._over: set[str] = set()
        self.tries = 0
        self.submitted: list[str] = []
        self.cancelled: list[str] = []

    @property
    def has_ended(self) -> bool:
        return not any(self._jobs)

    def submit(self, command: list[str], script: str) -> str:
        self.tries += 1
        outcome = next(self._sbatch, TAKEN)
        if outcome == REFUSED:
            raise ServiceFailed("sbatch: Unable to contact slurm controller")
        job_id = str(len(self.submitted) + 1)
        self.submitted.append(job_id)
        text = "ready: ws/c:samservice-1 on https://h\n" if job_id in self._ready else "loading\n"
        log_path(self._directory, job_id).write_text(text)
        if outcome == UNHEARD:
            raise ServiceFailed("sbatch did not answer within 60 s")
        return job_id

    def job_state(self, job_id: str) -> JobState:
        state = self._jobs[int(job_id) - 1].pop(0)
        if state == AWAY:
            raise ServiceFailed("squeue: Unable to contact slurm controller")
        found = JobState(state)
        if found.has_ended:
            self._over.add(job_id)
        return found

    def find_job(self, job_name: str) -> str | None:
        assert job_name == PLAN.service_name
        return next((job for job in self.submitted[::-1] if job not in self._over), None)

    def cancel(self, job_id: str, job_name: str) -> None:
        assert job_name == PLAN.service_name
        self.cancelled.append(job_id)


def keep(
    directory: Path,
    jobs: Sequence[list[str]],
    ready: str,
    sbatch: Sequence[str] = (),
    is_known: Callable[[], bool] = lambda: True,
) -> ScriptedQueue:
    """Run a keeper until the script is at its end, when the run has ended too."""
    queue, now_s = ScriptedQueue(directory, jobs, ready, sbatch), [0.0]
    (directory / TOKEN_NAME).write_text("secret")

    def sleep(seconds: float) -> None:
        now_s[0] += CHECK_INTERVAL_S

    Supervisor(
        directory,
        PLAN,
        is_needed=lambda: is_known() and not queue.has_ended,
        queue=queue,
        clock=lambda: now_s[0],
        sleep=sleep,
    ).run()
    return queue


LONG = ["RUNNING"] * 15


@pytest.mark.parametrize(
    ("jobs", "ready", "submitted", "last_words"),
    [
        ([["PENDING", "RUNNING", "RUNNING"]], "1", 1, "job 1 is cancelled"),
        ([[*LONG, "TIMEOUT"], LONG], "12", 2, "job 2 is cancelled"),
        ([["RUNNING", "CANCELLED"], LONG], "12", 2, "job 2 is cancelled"),
        ([[*LONG, "NOT_LISTED"], LONG], "12", 2, "job 2 is cancelled"),
        ([["RUNNING", AWAY, AWAY, "RUNNING"]], "1", 1, "job 1 is cancelled"),
        # SLURM itself puts a job back whose node was lost.
        ([["RUNNING", "PENDING", "RUNNING"]], "1", 1, "job 1 is cancelled"),
        # Its node was taken or lost as it loaded.
        ([["PENDING", "PREEMPTED"], LONG], "2", 2, "job 2 is cancelled"),
        ([["RUNNING", "NODE_FAIL"], ["BOOT_FAIL"], LONG], "3", 3, "job 3 is cancelled"),
        ([["REVOKED"], LONG], "2", 2, "job 2 is cancelled"),
        ([[*LONG, "TIMEOUT"], ["RUNNING", "CANCELLED"], LONG], "13", 3, "job 3 is cancelled"),
    ],
)
def test_the_job_is_there_as_long_as_the_run_and_no_longer(
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    jobs: list[list[str]],
    ready: str,
    submitted: int,
    last_words: str,
) -> None:
    queue = keep(tmp_path, jobs, ready)
    assert len(queue.submitted) == submitted
    assert queue.cancelled == [str(submitted)]
    assert log.messages[-1] == last_words
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
        ([["OUT_OF_MEMORY", ""]], "", "job 1 ended before it was ready: OUT_OF_MEMORY"),
        ([[*LONG, "TIMEOUT"], ["TIMEOUT", ""]], "1", "job 2 ended before it was ready: TIMEOUT"),
        # Nobody knows yet whether it would ever be ready.
        ([["CANCELLED", ""]], "", "job 1 ended before it was ready: CANCELLED"),
        (
            [[*LONG, "PREEMPTED"]] * 3 + [["", ""]],
            "",
            "job 3 has ended, state PREEMPTED, the 3rd in a row",
        ),
        (
            [["RUNNING", "FAILED"]] * 3 + [["", ""]],
            "123",
            "job 3 has ended, state FAILED, the 3rd in a row",
        ),
    ],
)
def test_a_job_that_will_not_last_is_not_submitted_for_ever(
    tmp_path: Path, log: pytest.LogCaptureFixture, jobs: list[list[str]], ready: str, failure: str
) -> None:
    queue = keep(tmp_path, jobs, ready)
    record = read_record(tmp_path)
    assert record is not None
    assert failure in str(record.failure)
    assert any(failure in line for line in log.messages)
    assert len(queue.submitted) == len([job for job in jobs if job != ["", ""]])


@pytest.mark.parametrize(
    ("sbatch", "tries", "submitted"),
    [([TAKEN, REFUSED, REFUSED], 4, ["1", "2"]), ([TAKEN, UNHEARD], 2, ["1", "2"])],
    ids=["a controller that restarts", "a job whose id was not heard"],
)
def test_a_lost_job_is_replaced_once_however_sbatch_fares(
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    sbatch: list[str],
    tries: int,
    submitted: list[str],
) -> None:
    queue = keep(tmp_path, [[*LONG, "NODE_FAIL"], LONG], "12", sbatch)
    assert (queue.tries, queue.submitted, queue.cancelled) == (tries, submitted, ["2"])
    assert any(
        line.startswith("cannot submit another job, will try again: ") for line in log.messages
    )
    record = read_record(tmp_path)
    assert record is not None
    assert (record.job_id, record.failure) == ("2", None)


def test_a_slurm_that_takes_no_job_for_half_an_hour_is_given_up(tmp_path: Path) -> None:
    queue = keep(tmp_path, [["RUNNING", "TIMEOUT"], [""]], "1", [TAKEN, *[REFUSED] * 999])
    assert queue.tries == pytest.approx(1800 / CHECK_INTERVAL_S, abs=3)
    record = read_record(tmp_path)
    assert record is not None
    expected = "no other job could be submitted for 30 min: sbatch: Unable to contact"
    assert str(record.failure).startswith(expected)


@pytest.mark.parametrize(("sbatch", "cancelled"), [(REFUSED, []), (UNHEARD, ["1"])])
def test_the_first_submission_is_tried_once_and_leaves_no_job(
    tmp_path: Path, sbatch: str, cancelled: list[str]
) -> None:
    queue = keep(tmp_path, [LONG], "1", [sbatch])
    assert (queue.tries, queue.cancelled) == (1, cancelled)
    record = read_record(tmp_path)
    assert record is not None
    assert str(record.failure).startswith("sbatch")


@pytest.mark.parametrize(
    ("method", "name", "first_failing", "looks"),
    [("touch", NEEDED_NAME, 2, 1), ("read_text", "slurm-1.log", 1, 3), ("replace", "", 2, 1)],
    ids=["the job is told that it is needed", "its log is read", "the record is written"],
)
def test_a_file_system_that_errs_for_a_while_costs_no_job(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    method: str,
    name: str,
    first_failing: int,
    looks: int,
) -> None:
    """``looks`` are those at the first job when it is over."""
    real, calls = getattr(Path, method), []

    def hiccup(path: Path, *args: Any, **options: Any) -> Any:
        if not name or path.name == name:
            calls.append(path)
            if first_failing <= len(calls) < first_failing + 2:
                raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, method, hiccup)
    queue = keep(tmp_path, [[*LONG, *["TIMEOUT"] * looks], LONG], "12")
    monkeypatch.undo()
    assert len(calls) > first_failing + 1
    assert any("Stale file handle" in line for line in log.messages)
    assert (queue.submitted, queue.cancelled) == (["1", "2"], ["2"])
    record = read_record(tmp_path)
    assert record is not None
    assert (record.job_id, record.failure) == ("2", None)


def test_a_log_that_is_away_with_its_file_system_tells_of_no_failure(tmp_path: Path) -> None:
    assert not is_ready(tmp_path, "1")
    with pytest.raises(FileNotFoundError):
        is_ready(tmp_path / "away", "1")


def test_why_the_job_was_given_up_is_recorded(tmp_path: Path) -> None:
    def is_known() -> bool:
        raise ServiceFailed("could not read which processes need the service for 15 min")

    queue = keep(tmp_path, [LONG], "1", is_known=is_known)
    assert queue.cancelled == ["1"]
    record = read_record(tmp_path)
    assert record is not None
    assert record.failure == "could not read which processes need the service for 15 min"


def test_owners_that_cannot_be_listed_just_now_end_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the owners is not there, as when a mount is away."""
    kept: list[Callable[[], bool]] = []

    class Recorder(Supervisor):
        def run(self) -> None:
            kept.append(self.is_needed)

    monkeypatch.setattr(slurm_keeper, "Supervisor", Recorder)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    main([str(tmp_path), json.dumps(to_builtins(PLAN))])
    assert kept[0]()


def test_the_script_serves_under_the_runs_name_and_holds_no_token(tmp_path: Path) -> None:
    plan = replace(PLAN, engine_options={"model": "vit b"}, workspace="w", ice_urls=("stun:s",))
    script = plan.script(tmp_path)
    assert 'serve --engine watershed --engine-options \'{"model": "vit b"}\'' in script
    assert "--service-id samservice-1" in script
    assert f"--token-file {tmp_path}/token" in script
    assert f"--owner-file {tmp_path}/slurm.needed" in script
    assert script.rstrip().endswith("--workspace w")
