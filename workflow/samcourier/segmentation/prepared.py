"""The image as it was found: its file, geometry, digest and key."""

from __future__ import annotations

from pathlib import Path

from ..errors import ImageChanged


def changed_in_work(path: Path) -> ImageChanged:
    """Return the failure of an image whose file was written to while it was in work."""
    return ImageChanged(
        f"{path}: changed while it was in work, expected a file that nobody writes to; run again"
    )
