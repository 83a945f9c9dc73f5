"""Image files and folders as sources of pixels, one module a family of formats."""

from .base import Index, Source, check_fits_memory
from .open import open_source

__all__ = ["Index", "Source", "check_fits_memory", "open_source"]
