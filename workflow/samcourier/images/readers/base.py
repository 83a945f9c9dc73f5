"""The interface of a reader: an opened image whose pixels are read in parts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import ImageUnfit, ImageUnread, SceneUnchosen
from ...formatting import redacted
from ..geometry import Geometry
from ..location import ImageLocation

Index = tuple[int | slice, ...]

#: Errors of a failing disk, an unreachable share, or exhausted resources, which may be temporary.
_TEMPORARY_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EREMOTEIO),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ECONNRESET),
    }
)


class Source(Protocol):
    """One scene of an opened file.

    Attributes:
        axes: One letter per dimension; letters other than TCZYXS mean unknown axes.
        shape: Length of each dimension.
        dtype: Type of the pixels.
        geometry: What the file states of the axes T, Z, Y and X, in any order; an axis that it
            says nothing of may be absent.
        channel_names: Names of the channels, () if the file has none.
        scene_names: Names of all scenes of the file, "" for one without a name.

    A source may also have ``left_out``: the names of scenes that are no images, as a slide's label.
    """

    @property
    def axes(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def channel_names(self) -> tuple[str, ...]: ...

    @property
    def scene_names(self) -> tuple[str, ...]: ...

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``, which has one integer or slice per dimension.

        Only the chunks that hold them are read. Raises ImageUnfit when they are damaged.
        """
        ...


#: Opens one scene of a file.
Open = Callable[[Path, int | str | None], AbstractContextManager[Source]]


def pick_scene(
    path: ImageLocation,
    names: Sequence[str],
    scene: int | str | None,
    images: Sequence[int] | None = None,
) -> int:
    """Return the index of the requested scene, which is an index or a unique name.

    ``images`` are the indices from which None chooses: the scenes that are images of this file, by
    default all. Raises SceneUnchosen when ``scene`` is None and there are several, ImageUnfit when
    no such scene exists.
    """
    images = range(len(names)) if images is None else images
    if scene is None and len(images) == 1:
        return images[0]
    if isinstance(scene, str) and list(names).count(scene) == 1:
        return list(names).index(scene)
    if isinstance(scene, int) and 0 <= scene < len(names):
        return scene
    problem = "is one of several" if scene is None else f"no scene {scene!r}"
    shown = ", ".join(filter(None, names[:8])) + (" ..." if len(names) > 8 else "")
    message = (
        f"{path}: {problem}, expected scene 0 to {len(names) - 1}"
        + (f" or one of {shown}" if shown else "")
        + ("; write it into the sheet" if scene is None else "")
    )
    raise ImageUnfit(message) if scene is not None else SceneUnchosen(message, images)


def check_fits_memory(path: ImageLocation, nbytes: int) -> None:
    """Raise ImageUnfit for more bytes than the total memory, ImageUnread for more than is free."""
    import psutil

    memory = psutil.virtual_memory()
    if nbytes > memory.available:
        kind = ImageUnfit if nbytes > memory.total else ImageUnread
        raise kind(
            f"{path}: says that it holds {nbytes / 1e9:.1f} GB of pixels at once, expected less"
            f" than the {memory.available / 1e9:.1f} GB of memory that are left"
        )


def damaged(
    path: ImageLocation, kind: str, reason: object, expected: str = "a whole file"
) -> ImageUnfit:
    """Return the error for a damaged file of this kind; ``reason`` is a foreign error or its text.

    A temporary error of the machine gives ImageUnread instead of ImageUnfit.
    """
    if is_passing(reason):
        return unread(path, reason)
    return ImageUnfit(f"{path}: damaged {kind} ({one_line(reason)}), expected {expected}")


def is_passing(error: object) -> bool:
    """Return True for a possibly temporary error of machine, disk or network, not of the file."""
    return isinstance(error, OSError) and error.errno in _TEMPORARY_ERRNOS


def unread(path: ImageLocation, reason: object) -> ImageUnread:
    """Return the error for a file that could not be read because of a temporary problem."""
    return ImageUnread(f"{path}: could not be read ({one_line(reason)}); run again")


def one_line(message: object) -> str:
    """Return a foreign error's text as one short line, without signatures and passwords."""
    return redacted(" ".join(str(message).split()))[:200] or type(message).__name__
