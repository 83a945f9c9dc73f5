"""Each fault alone, and mixtures, on a whole run: nothing lost, doubled, wrong or left behind.

A failing one is played again by its name, ``pytest -m faults tests/scenarios -k kill_batch``; one
found by ``make soak`` by ``make soak ONLY=mixture-105``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .scenario import KINDS, FaultKind, Scenario, alone, faultless, mixture

if TYPE_CHECKING:
    from .world import World

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

MIXTURE_SEEDS = (1, 2)


def assert_sound(scenario: Scenario, world: World, directory: Path) -> None:
    from .play import play

    played = play(scenario, world, directory / "run")
    assert played.is_sound, str(played)


def test_without_faults_one_run_is_enough(world: World, tmp_path: Path) -> None:
    from .play import play

    scenario = faultless(1)
    played = play(scenario, world, tmp_path / "run")
    assert played.is_sound, str(played)
    assert played.statuses == [int(scenario.has_bad_image)]
    assert played.call_count == scenario.image_count


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault(world: World, tmp_path: Path, kind: FaultKind) -> None:
    assert_sound(alone(kind, 1), world, tmp_path)


@pytest.mark.parametrize("seed", MIXTURE_SEEDS)
def test_a_mixture_of_faults(world: World, tmp_path: Path, seed: int) -> None:
    assert_sound(mixture(seed), world, tmp_path)
