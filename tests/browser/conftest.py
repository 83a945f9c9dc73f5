from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _load_chromium() -> Any:
    spec = importlib.util.spec_from_file_location(
        "chromium", Path(__file__).with_name("chromium.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def browser() -> Iterator[Any]:
    """A fresh headless Chromium; skips where none is installed."""
    chromium = _load_chromium()
    if chromium.CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with chromium.open_browser() as opened:
        opened.resize(1300, 900)
        yield opened
