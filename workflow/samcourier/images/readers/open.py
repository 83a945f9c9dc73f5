"""A path -> its source, by what the file begins with: names lie."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...errors import CourierError, ImageMissing, ImageUnfit
from .base import Open, Source, is_passing, one_line, unread
from .ome_zarr import is_zarr, open_ome_zarr
from .raster import JPEG_MAGIC, PNG_MAGIC, open_jpeg, open_png
from .tiff import TIFF_MAGIC, open_tiff
from .vendor import vendor_readers

EXPECTED = "expected a TIFF, PNG, JPEG, CZI, LIF or ND2 file or an OME-Zarr"

_READERS: tuple[tuple[tuple[bytes, ...], Open], ...] = (
    (TIFF_MAGIC, open_tiff),
    (PNG_MAGIC, open_png),
    (JPEG_MAGIC, open_jpeg),
    *vendor_readers(),
)


@contextmanager
def open_source(path: Path, scene: int | str | None = None) -> Iterator[Source]:
    """Open one scene of the image at ``path``.

    Raises ImageUnfit for what is no image, is damaged, or has no such scene.
    """
    with ExitStack() as stack:
        try:
            source = _opened(path, scene, stack)
        except CourierError:
            raise
        # What a damaged file makes a reader raise is anybody's guess, and harms this image alone.
        except Exception as error:
            if is_passing(error):
                raise unread(path, error) from error
            raise ImageUnfit(
                f"{path}: cannot be read ({type(error).__name__}: {one_line(error)}), {EXPECTED}"
            ) from error
        yield source


def _opened(path: Path, scene: int | str | None, stack: ExitStack) -> Source:
    if is_zarr(path):
        return open_ome_zarr(path, scene)
    head = _head(path)
    for magic, open_it in _READERS:
        if head.startswith(magic):
            return stack.enter_context(open_it(path, scene))
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
        if re.search(r"\\x[0-9a-f]{2}", path.name):
            raise ImageUnfit(
                f"{path}: a name that is not plain UTF-8 text, its odd bytes shown as \\xNN;"
                " expected letters, digits and the like: rename the file"
            ) from None
        raise ImageMissing(f"{path}: no such file, {EXPECTED}") from None
    except IsADirectoryError:
        raise ImageUnfit(f"{path}: is a directory, {EXPECTED}") from None
    except OSError as error:
        if is_passing(error):
            raise unread(path, error) from error
        raise ImageUnfit(f"{path}: cannot be opened ({error.strerror}), {EXPECTED}") from None
    if not head:
        raise ImageUnfit(f"{path}: the file is empty, {EXPECTED}")
    return head
