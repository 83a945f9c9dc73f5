"""The hosts and servers that all scenarios share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "networks"))

if TYPE_CHECKING:
    from .world import World


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, allow_process: Callable[[int], None]
) -> Iterator[World]:
    from namespaces import missing_for_namespaces

    from .world import built_world

    missing = missing_for_namespaces()
    if missing is None and shutil.which("mount") is None:
        missing = "it needs mount"
    if missing is not None:
        pytest.skip(f"no faults are played: {missing}")
    with built_world(tmp_path_factory.mktemp("servers"), allow_process) as built:
        yield built
