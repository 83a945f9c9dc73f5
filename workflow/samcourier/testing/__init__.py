"""Test suites for engines, readers and transports to inherit, and a scripted fake transport.

A package subclasses the suite of its kind in its own tests: :class:`.engines.EngineTests`,
:class:`.readers.ReaderTests` or :class:`.transports.TransportTests`, which also needs
pytest-asyncio. ``docs/extending.md`` shows each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .engines import EngineTests
    from .fake import FakeTransport, Scripted
    from .readers import ReaderTests
    from .transports import TransportTests

__all__ = ["EngineTests", "FakeTransport", "ReaderTests", "Scripted", "TransportTests"]

_MODULE_OF = {
    "EngineTests": "engines",
    "FakeTransport": "fake",
    "ReaderTests": "readers",
    "Scripted": "fake",
    "TransportTests": "transports",
}

# A failing assertion of a suite then shows the compared values.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in set(_MODULE_OF.values())))


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
