"""Open an image with the reader that its first bytes indicate; file names may be wrong."""

from __future__ import annotations

import os
import pkgutil
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...errors import CourierError, ImageMissing, ImageUnfit
from ..location import ImageLocation, RemoteImage
from .base import Open, Source, is_passing, one_line, unread
from .built_in import BUILT_IN
from .reader import HEAD_BYTES, Reader, installed_readers

EXPECTED = "expected a TIFF, PNG, JPEG, CZI, LIF or ND2 file or an OME-Zarr"

#: Number of first bytes of a file that an error message shows.
_SHOWN_BYTES = 8


@contextmanager
def open_source(path: ImageLocation, scene: int | str | None = None) -> Iterator[Source]:
    """Open one scene of the image at ``path``.

    Raises ImageUnfit when it is not an image, is damaged, or has no such scene, ImageMissing when
    there is no such file, and ImageUnread for a temporary problem.
    """
    with ExitStack() as stack:
        try:
            source = _opened(path, scene, stack)
        except CourierError:
            raise
        # A damaged file can make a reader raise any error; it must affect this image only.
        except Exception as error:
            if is_passing(error):
                raise unread(path, error) from error
            raise ImageUnfit(
                f"{path}: cannot be read ({type(error).__name__}: {one_line(error)}), {EXPECTED}"
            ) from error
        yield source


def _opened(path: ImageLocation, scene: int | str | None, stack: ExitStack) -> Source:
    if isinstance(path, RemoteImage):
        from .ome_zarr import opened_remote_ome_zarr

        return stack.enter_context(opened_remote_ome_zarr(path, scene))
    reader = find_reader(path)
    try:
        open_it: Open = pkgutil.resolve_name(reader.open)
    except ImportError as error:
        raise ImageUnfit(
            f"{path}: the reader of {reader.kind} files cannot be imported ({one_line(error)}),"
            " expected the packages that it imports to be installed"
        ) from error
    return stack.enter_context(open_it(path, scene))


def find_reader(path: Path) -> Reader:
    """Return the reader that recognises the image at ``path``; built-in readers come first.

    Raises ImageUnfit when no reader does, ImageMissing when the file does not exist, ImageUnread
    when it cannot be read because of a temporary problem.
    """
    if os.path.isdir(path):
        for reader in _readers():
            if reader.recognises_folder(path):
                return reader
    head = _head(path)
    for reader in _readers():
        if reader.recognises_file(path, head):
            return reader
    installed = installed_readers()
    others = "".join(f" or {each.kind}" for each in installed.readers)
    problems = "".join(f"; {problem}" for problem in installed.problems)
    raise ImageUnfit(f"{path}: begins with {head[:_SHOWN_BYTES]!r}, {EXPECTED}{others}{problems}")


def _readers() -> Iterator[Reader]:
    """Yield the built-in readers, then those of other distributions, which are loaded only then."""
    yield from BUILT_IN
    yield from installed_readers().readers


def _head(path: Path) -> bytes:
    try:
        # Opening a pipe or a device could block forever.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ImageUnfit(f"{path}: is not a regular file, {EXPECTED}")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
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
