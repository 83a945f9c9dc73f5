"""A path -> its source, by what the file begins with: names lie."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ImageUnfit
from .base import Source
from .ome_zarr import is_zarr, open_ome_zarr
from .raster import JPEG_MAGIC, PNG_MAGIC, open_jpeg, open_png
from .tiff import TIFF_MAGIC, open_tiff

EXPECTED = "expected a TIFF, PNG or JPEG file or an OME-Zarr"

_READERS = ((TIFF_MAGIC, open_tiff), (PNG_MAGIC, open_png), (JPEG_MAGIC, open_jpeg))


@contextmanager
def open_source(path: Path, scene: int | str | None = None) -> Iterator[Source]:
    """Open one scene of the image at ``path``.

    Raises ImageUnfit for what is no image, is damaged, or has no such scene.
    """
    if is_zarr(path):
        yield open_ome_zarr(path, scene)
        return
    head = _head(path)
    for magic, open_it in _READERS:
        if head.startswith(magic):
            with open_it(path, scene) as source:
                yield source
            return
    raise ImageUnfit(f"{path}: begins with {head!r}, {EXPECTED}")


def _head(path: Path) -> bytes:
    try:
        # Opening a pipe or a device could wait for ever.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ImageUnfit(f"{path}: is no regular file, {EXPECTED}")
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ImageUnfit(f"{path}: no such file, {EXPECTED}") from None
    except IsADirectoryError:
        raise ImageUnfit(f"{path}: is a directory, {EXPECTED}") from None
    except OSError as error:
        raise ImageUnfit(f"{path}: cannot be opened ({error.strerror}), {EXPECTED}") from None
    if not head:
        raise ImageUnfit(f"{path}: the file is empty, {EXPECTED}")
    return head
