"""Image files and folders as sources of pixels; one module per family of formats.

The modules that open files are imported when they are first needed: finding images only needs to
recognise them, and importing NumPy, tifffile and zarr takes a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Index, Source, check_fits_memory
    from .open import open_source

__all__ = ["Index", "Source", "check_fits_memory", "open_source"]

_MODULE_OF = {
    "Index": "base",
    "Source": "base",
    "check_fits_memory": "base",
    "open_source": "open",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
