"""Waiting for a service's job: for SLURM to start it, and for Hypha to know its service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from samcourier.deploy.slurm import service_job as slurm
from samcourier.deploy.slurm.commands import JobState
from samcourier.deploy.slurm.service_job import deploy_job, wait_until_registered
from samcourier.deploy.slurm.supervisor import (
    NEEDED_NAME,
    RECORD_NAME,
    SlurmPlan,
    SlurmRecord,
    log_path,
)
from samcourier.errors import (
    CourierError,
    Denied,
    Overloaded,
    ServiceFailed,
    ServiceGone,
    TransportFailed,
)
from samcourier.files.atomic import write_private
from samcourier.processes import process_identity
from samcourier.settings.run_settings import SlurmJobSettings
from samcourier.transports import Endpoint, session

PLAN = SlurmPlan("samservice-1", "https://h", None, "watershed", {}, SlurmJobSettings("gpu"))
ENDPOINT = Endpoint("https://h", "ws", "samservice-1", "samservice-1-rtc")
DOWN = TransportFailed("websocket: refused")


class ScriptedSession:
    """A connection whose opening goes by a script of errors, None for one that succeeds."""

    def __init__(self, openings: Iterator[CourierError | None]) -> None:
        self._openings = openings
        self.is_released = False

    async def server(self, timeout_s: float, user: object) -> object:
        error = next(self._openings)
        if error is not None:
            raise error
        return self

    async def release(self, user: object) -> None:
        self.is_released = True


def script(
    monkeypatch: pytest.MonkeyPatch,
    openings: list[CourierError | None],
    lists: list[CourierError | list[str]],
) -> ScriptedSession:
    scripted, listed = ScriptedSession(iter(openings)), iter(lists)

    async def list_services(server: object, endpoint: Endpoint) -> list[str]:
        found = next(listed)
        if isinstance(found, CourierError):
            raise found
        return found

    monkeypatch.setattr(session, "HyphaSession", lambda endpoint: scripted)
    monkeypatch.setattr(session, "list_services", list_services)
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    return scripted


@pytest.mark.parametrize(
    ("openings", "lists"),
    [
        ([None], [["ws/c:samservice-1"]]),
        ([None, None, None], [[], [], ["ws/c:samservice-1"]]),
        ([DOWN, DOWN, None], [["ws/c:samservice-1"]]),
        ([None, None], [TransportFailed("lost"), ["ws/c:samservice-1"]]),
        ([None, None], [Overloaded("rate limit"), ["ws/c:samservice-1"]]),
    ],
    ids=["there", "submitted again", "server restarts", "connection lost", "server is busy"],
)
async def test_the_service_of_a_job_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openings: list[Any], lists: list[Any]
) -> None:
    scripted = script(monkeypatch, openings, lists)
    await wait_until_registered(ENDPOINT, 60.0, tmp_path)
    assert scripted.is_released


@pytest.mark.parametrize(
    ("opening", "expected", "said"),
    [
        (None, ServiceGone, "samservice-1 was not registered for 0 s, see "),
        (DOWN, TransportFailed, "websocket: refused"),
        (Denied("no"), Denied, "no"),
    ],
    ids=["not there", "server never reached", "denied"],
)
async def test_a_service_that_never_registers_is_gone_so_that_a_lost_batch_may_run_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opening: CourierError | None,
    expected: type[CourierError],
    said: str,
) -> None:
    scripted = script(monkeypatch, [opening] * 9, [[]] * 9)
    with pytest.raises(expected, match=said):
        await wait_until_registered(ENDPOINT, 0.0, tmp_path)
    assert scripted.is_released


async def test_a_server_that_went_away_for_good_has_taken_the_service_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [None, *[DOWN] * 999], [[]])
    monkeypatch.setattr(slurm, "POLL_S", 0.01)
    monkeypatch.setattr(slurm, "UNREACHED_S", 0.0)
    with pytest.raises(ServiceGone, match=r"0\.1 s \(last: websocket: refused\), see "):
        await wait_until_registered(ENDPOINT, 0.1, tmp_path)


def test_a_slurm_that_does_not_answer_once_ends_no_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    keeper = str(process_identity(os.getpid()))
    write_private(
        tmp_path / RECORD_NAME, json.dumps(to_builtins(SlurmRecord(keeper, PLAN, job_id="7")))
    )
    states = iter([JobState("PENDING", "Priority"), None, JobState("RUNNING", node="gpu07")])

    def job_state(job_id: str) -> JobState:
        state = next(states)
        if state is None:
            raise ServiceFailed("squeue did not answer within 60 s")
        if state.state == "RUNNING":
            log_path(tmp_path, job_id).write_text("ready: ws/c:samservice-1\n")
        return state

    monkeypatch.setattr(slurm, "job_state", job_state)
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    deploy_job(tmp_path, PLAN, "token", 60.0)
    assert {record.job for record in log.records} == {"7"}
    assert log.messages == [
        "waiting for SLURM: job 7 PENDING (Priority)",
        "waiting for SLURM: job 7 has an unknown state: squeue did not answer within 60 s",
        "waiting for SLURM: job 7 RUNNING on gpu07",
        "the service's job 7 is ready",
    ]


def test_files_that_cannot_be_read_just_now_end_no_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    record, job_log = tmp_path / RECORD_NAME, log_path(tmp_path, "7")
    keeper = str(process_identity(os.getpid()))
    write_private(record, json.dumps(to_builtins(SlurmRecord(keeper, PLAN, job_id="7"))))
    steps = iter(
        [
            lambda: record.rename(tmp_path / "away"),
            lambda: (tmp_path / "away").rename(record),
            job_log.mkdir,
            lambda: (job_log.rmdir(), job_log.write_text("ready: ws/c:samservice-1\n")),
        ]
    )

    def job_state(job_id: str) -> JobState:
        next(steps)()
        return JobState("RUNNING", node="gpu07")

    monkeypatch.setattr(slurm, "job_state", job_state)
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    deploy_job(tmp_path, PLAN, "token", 60.0)
    assert log.messages[-1] == "the service's job 7 is ready"
    assert next(steps, None) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the boot id of Linux")
@pytest.mark.parametrize(
    ("silence_s", "is_refused"), [(5, True), (200, True), (3600, False), (None, False)]
)
def test_the_supervisor_of_another_host_is_left_alone_while_it_is_at_work(
    silence_s: float | None,
    is_refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Replaced(Exception):
        pass

    def undeploy(directory: Path) -> None:
        raise Replaced

    monkeypatch.setattr(slurm, "undeploy_job", undeploy)
    record = SlurmRecord("17-4711-0f9a0c55-b2a1-4d0c-9e27-7f7de3a4c001", PLAN, "42")
    write_private(tmp_path / RECORD_NAME, json.dumps(to_builtins(record)))
    if silence_s is not None:
        (tmp_path / NEEDED_NAME).touch()
        then_s = time.time() - silence_s
        os.utime(tmp_path / NEEDED_NAME, (then_s, then_s))
    with pytest.raises(ServiceFailed if is_refused else Replaced) as ended:
        deploy_job(tmp_path, PLAN, "token", 1.0)
    if is_refused:
        assert "the service's job 42 is supervised on another host" in str(ended.value)
        assert not (tmp_path / "owners").exists()
