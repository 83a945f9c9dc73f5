"""The small InstanSeg model that make builds before these tests, and the package of the docs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL_MODEL = Path(__file__).parents[2] / "build/instanseg/small_model.pt"


@pytest.fixture(scope="session")
def small_model() -> Path:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: make test-microsam")
    if not SMALL_MODEL.exists():
        pytest.fail(f"{SMALL_MODEL} is missing: make build/instanseg/small_model.pt", pytrace=False)
    return SMALL_MODEL


@pytest.fixture(scope="session")
def instanseg(small_model: Path, install_page: Callable[[str], Any]) -> Any:
    """The package of docs/extending-instanseg.md, installed into a clean environment."""
    return install_page("extending-instanseg.md")
