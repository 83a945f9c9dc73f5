"""A job finds the settings of its run by the environment, under the name of its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from samcourier.pipeline.frozen_jobs import VARIABLE, pass_settings_to_jobs, settings_passed_by_run


def test_jobs_find_the_frozen_files_of_their_run() -> None:
    environment: dict[str, str] = {}
    pass_settings_to_jobs("", Path("results/cells/run/1.json"), environment)
    assert settings_passed_by_run("", environment) == Path("results/cells/run/1.json").absolute()


def test_two_modules_of_a_workflow_have_settings_of_their_own() -> None:
    environment: dict[str, str] = {}
    pass_settings_to_jobs("nuclei", Path("/n.json"), environment)
    pass_settings_to_jobs("cells", Path("/c.json"), environment)
    assert settings_passed_by_run("nuclei", environment) == Path("/n.json")
    assert settings_passed_by_run("cells", environment) == Path("/c.json")
    assert settings_passed_by_run("", environment) is None


@pytest.mark.parametrize("value", ["", "{", "[]", "null", '"text"'])
def test_a_damaged_variable_is_ignored(value: str) -> None:
    environment = {VARIABLE: value}
    assert settings_passed_by_run("", environment) is None
    pass_settings_to_jobs("", Path("/a.json"), environment)
    assert settings_passed_by_run("", environment) == Path("/a.json")
