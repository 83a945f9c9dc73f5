"""Test suites for engines, readers and transports to inherit, and a scripted fake transport.

A package of an engine subclasses :class:`.engines.EngineTests` in its own tests; one of a reader
:class:`.readers.ReaderTests`, one of a transport :class:`.transports.TransportTests`, which needs
pytest-asyncio too. ``docs/extending.md`` shows each.
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

# So that a failing assertion of a suite shows what was compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in set(_MODULE_OF.values())))


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
