"""A job finds the settings of its run by the environment, under the name of its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from samcourier.pipeline.frozen_jobs import VARIABLE, hand_on_settings, handed_on_settings


def test_what_a_run_hands_on_is_found_by_its_jobs() -> None:
    environment: dict[str, str] = {}
    hand_on_settings("", Path("results/cells/run/1.json"), environment)
    assert handed_on_settings("", environment) == Path("results/cells/run/1.json").absolute()


def test_two_modules_of_a_workflow_have_settings_of_their_own() -> None:
    environment: dict[str, str] = {}
    hand_on_settings("nuclei", Path("/n.json"), environment)
    hand_on_settings("cells", Path("/c.json"), environment)
    assert handed_on_settings("nuclei", environment) == Path("/n.json")
    assert handed_on_settings("cells", environment) == Path("/c.json")
    assert handed_on_settings("", environment) is None


@pytest.mark.parametrize("value", ["", "{", "[]", "null", '"text"'])
def test_a_damaged_variable_hands_on_nothing(value: str) -> None:
    environment = {VARIABLE: value}
    assert handed_on_settings("", environment) is None
    hand_on_settings("", Path("/a.json"), environment)
    assert handed_on_settings("", environment) == Path("/a.json")
