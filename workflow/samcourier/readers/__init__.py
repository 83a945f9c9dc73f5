"""Image files and folders as sources of pixels, one module a family of formats."""

from .base import Index, Source
from .open import open_source

__all__ = ["Index", "Source", "open_source"]
