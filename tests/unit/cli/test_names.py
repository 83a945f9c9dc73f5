"""Names of engines and transports on the command line are checked before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import samcourier.cli.service as commands
from samcourier.cli import main
from samcourier.diagnostics.verify import check_engine_described
from samcourier.errors import CourierError, InputError, RequestRefused
from samcourier.results.service_description import ServiceDescription
from samcourier.settings.run_settings import RunSettings

from ..installed import Install

TRANSPORT = """
from samcourier.transports.description import TransportDescription

PIGEON = TransportDescription("pigeon", "carries letters", "pigeon_transport:build")
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines of services that a command came to start."""
    engines: list[str] = []

    def find(settings: RunSettings, dataset_dir: Path) -> None:
        engines.append(settings.service.engine)
        raise InputError("no service in this test")

    monkeypatch.setattr(commands, "find_service", find)
    return engines


def verify(*options: str) -> tuple[int, str]:
    command = ["verify", "--dataset-dir", "d", "--out", "o", "--server-url", "http://h", *options]
    done = CliRunner().invoke(main, command)
    return done.exit_code, done.output


@pytest.mark.parametrize("target", ["local", "slurm"])
def test_an_engine_that_is_unknown_here_is_refused_where_it_would_be_built_here(
    started: list[str], target: str
) -> None:
    status, said = verify("--target", target, "--engine", "watershd")
    assert status == 1 and started == []
    assert "engine 'watershd' is unknown, did you mean 'watershed'? expected one of" in said


@pytest.mark.parametrize("target", ["bioengine", "existing"])
def test_elsewhere_the_service_may_know_engines_that_are_unknown_here(
    started: list[str], target: str
) -> None:
    verify("--target", target, "--engine", "stardist")
    assert started == ["stardist"]


def test_an_unknown_transport_is_refused(started: list[str]) -> None:
    status, said = verify("--transport", "webrct")
    assert status == 1 and started == []
    assert "transport 'webrct' is unknown, did you mean 'webrtc'? expected one of" in said


def test_an_installed_transport_is_known(started: list[str], install: Install) -> None:
    entry = "[samcourier.transports]\npigeon = pigeon_door:PIGEON\n"
    install("courier-pigeon", entry, pigeon_door=TRANSPORT)
    verify("--transport", "pigeon")
    assert started == ["watershed"]


@pytest.mark.parametrize(
    ("description", "is_refused"),
    [({"engine": "watershed"}, False), ({}, False), ({"engine": "microsam"}, True)],
)
def test_an_app_that_runs_another_engine_is_refused_by_verify(
    description: dict[str, Any], is_refused: bool
) -> None:
    caught: CourierError | None = None
    try:
        check_engine_described("watershed", ServiceDescription.of(description))
    except RequestRefused as error:
        caught = error
    assert (caught is not None) == is_refused
    if caught is not None:
        assert "runs 'microsam'; engines known here: watershed, microsam" in str(caught)
