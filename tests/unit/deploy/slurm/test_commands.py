"""What SLURM's commands say, and what is asked of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from samcourier.deploy.slurm.commands import (
    JobState,
    cancel,
    find_job,
    job_state,
    parse_state,
    parse_submitted,
    sbatch_command,
    submit,
)
from samcourier.errors import CourierError, InputError, ServiceFailed
from samcourier.settings.run_settings import SlurmJobSettings


@pytest.mark.parametrize(
    ("said", "state", "shown", "has_ended"),
    [
        ("PENDING|Priority|\n", "PENDING", "PENDING (Priority)", False),
        ("PENDING|None|\n", "PENDING", "PENDING", False),
        ("CONFIGURING|None|gpu07\n", "CONFIGURING", "CONFIGURING on gpu07", False),
        ("RUNNING|None|gpu07\n", "RUNNING", "RUNNING on gpu07", False),
        ("COMPLETING|None|gpu07\n", "COMPLETING", "COMPLETING on gpu07", False),
        ("REQUEUED|BeginTime|\n", "REQUEUED", "REQUEUED (BeginTime)", False),
        ("TIMEOUT|TimeLimit|gpu07\n", "TIMEOUT", "TIMEOUT (TimeLimit)", True),
        ("CANCELLED|None|\n", "CANCELLED", "CANCELLED", True),
        ("NODE_FAIL|NonZeroExitCode|gpu07\n", "NODE_FAIL", "NODE_FAIL (NonZeroExitCode)", True),
        ("FAILED|NonZeroExitCode|gpu07\n", "FAILED", "FAILED (NonZeroExitCode)", True),
        ("", "NOT_LISTED", "NOT_LISTED", True),
    ],
)
def test_a_state_is_parsed_from_squeue(said: str, state: str, shown: str, has_ended: bool) -> None:
    parsed = parse_state(said)
    assert (parsed.state, str(parsed), parsed.has_ended) == (state, shown, has_ended)


@pytest.mark.parametrize(("said", "job_id"), [("12\n", "12"), ("12;cluster\n", "12")])
def test_the_job_id_is_parsed_from_sbatch(said: str, job_id: str) -> None:
    assert parse_submitted(f"sbatch: a lua plugin greets you\n{said}") == job_id


def test_no_job_id_is_a_failure() -> None:
    with pytest.raises(ServiceFailed, match="printed no job id"):
        parse_submitted("welcome")


def test_only_given_resources_are_requested() -> None:
    base = ["sbatch", "--parsable", "--requeue", "--job-name=n", "--output=o"]
    base += ["--open-mode=append", "--cpus-per-task=1"]
    assert sbatch_command(SlurmJobSettings(), "n", "o", 1.0, None) == base
    settings = SlurmJobSettings("gpu", "lab", "gpu:1", 90, ("--constraint=a100",))
    asked = ["--partition=gpu", "--account=lab", "--gres=gpu:1", "--time=90", "--mem=8000"]
    assert sbatch_command(settings, "n", "o", 1.0, 8000) == [*base, *asked, "--constraint=a100"]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for scripted commands, the only ones there are."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write_command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("echo 'PENDING|Resources|'", JobState("PENDING", "Resources")),
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            JobState("NOT_LISTED"),
        ),
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "Unable to contact slurm controller",
        ),
    ],
)
def test_a_job_that_is_forgotten_is_no_slurm_that_is_away(
    commands: Path, script: str, outcome: JobState | str
) -> None:
    write_command(commands, "squeue", script)
    if isinstance(outcome, JobState):
        assert job_state("7") == outcome
    else:
        with pytest.raises(CourierError, match=outcome):
            job_state("7")


@pytest.mark.parametrize(
    ("said", "job_id"),
    [
        ("", None),
        ("7|TIMEOUT\n", None),
        ("9|PENDING\n7|TIMEOUT\n", "9"),
        ("a plugin greets you\n9|RUNNING\n11|PENDING\n", "11"),
    ],
)
def test_a_job_of_unknown_id_is_found_by_its_name(
    commands: Path, said: str, job_id: str | None
) -> None:
    write_command(commands, "squeue", f"echo \"$@\" > {commands}/asked; printf '{said}'")
    assert find_job("samservice-1") == job_id
    asked = f"--noheader --states=all --name=samservice-1 --user={os.getuid()} -o %i|%T\n"
    assert (commands / "asked").read_text() == asked


def test_a_command_that_cannot_be_run_just_now_is_a_slurm_that_is_away(commands: Path) -> None:
    (commands / "squeue").touch(mode=0o644)
    with pytest.raises(ServiceFailed, match="squeue cannot be run: Permission denied"):
        job_state("7")


def test_the_token_and_an_outer_jobs_options_do_not_go_into_the_jobs_environment(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHA_TOKEN", "secret")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    monkeypatch.setenv("SLURM_CONF", "/conf")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    write_command(
        commands,
        "sbatch",
        f'echo "$HYPHA_TOKEN$SLURM_MEM_PER_NODE$SLURM_CONF $HTTPS_PROXY" > {commands}/saw; echo 3',
    )
    assert submit(["sbatch"], "#!/bin/sh\n") == "3"
    assert (commands / "saw").read_text() == "/conf http://proxy:3128\n"
    assert os.environ["HYPHA_TOKEN"] == "secret"


def test_without_slurm_it_is_said_where_to_run(commands: Path) -> None:
    with pytest.raises(InputError, match="squeue is not installed here"):
        job_state("7")


@pytest.mark.parametrize(
    ("said", "is_failure"),
    [("Kill job error on job id 7: Invalid job id specified", False), ("no controller", True)],
)
def test_a_job_that_is_over_needs_no_cancelling(
    commands: Path, said: str, is_failure: bool
) -> None:
    write_command(commands, "scancel", f"echo 'scancel: error: {said}' >&2; exit 1")
    with pytest.raises(ServiceFailed) if is_failure else contextlib.nullcontext():
        cancel("7", "samservice-1")
