"""The failure classes of the client, and the reaction that each one requires.

A transport translates every foreign exception into one of these at its edge; nothing above
``transports/`` and ``deploy/`` knows an exception of hypha-rpc, aiortc, httpx or websockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CourierError(Exception):
    """Base of every expected failure. ``kind`` is the failure class written to the logs.

    ``name`` is the name of the service's error if the service named one, else the class's name.
    """

    kind = "service"

    def __init__(self, message: str, *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name or type(self).__name__

    @property
    def must_leave_transport(self) -> bool:
        """Whether the call must move to another transport: the transport or the service failed."""
        return isinstance(self, TransportFailed | ServiceGone)


class InputError(CourierError):
    """The user's input is wrong; one line says where, what was found and what was expected."""

    kind = "input"


class TransportFailed(CourierError):
    """The transport failed, not the work: try the same image over the next transport."""

    kind = "transport"


class Overloaded(CourierError):
    """The service or server is overloaded: wait, and keep the same transport."""

    kind = "overload"


class ServiceFailed(CourierError):
    """The service reported a failure, or returned a mask that does not fit the image."""

    kind = "service"


class ServiceUnfit(ServiceFailed):
    """The service failed for many images and made no mask: the user has to check it."""


class ServiceGone(ServiceFailed):
    """No transport reaches the service any more; further images would fail as well."""


class ImageUnfit(CourierError):
    """This image cannot be read or is refused; the same pixels would fail again."""

    kind = "image"


class SceneUnchosen(ImageUnfit):
    """The file holds several images, and the sheet does not say which one is meant.

    ``scenes`` are the indices of those that can be chosen.
    """

    def __init__(self, message: str, scenes: Sequence[int]) -> None:
        super().__init__(message)
        self.scenes = tuple(scenes)


class ImageMissing(ImageUnfit):
    """The file does not exist; a later run tries it again when it exists."""

    kind = "missing"


class ImageUnread(ImageUnfit):
    """The machine could not read the file now (disk, memory); the next run tries it again."""

    kind = "unread"


class ImageChanged(CourierError):
    """The file changed while it was processed; the next run always tries it again."""

    kind = "changed"


class RequestRefused(CourierError):
    """The parameters are wrong for every image: stop the run."""

    kind = "request"


class Denied(CourierError):
    """The token is missing, has expired, or lacks the right: stop at once and say what to do."""

    kind = "denied"


class StorageFailed(CourierError):
    """The results folder cannot be written: stop, because no other image could be saved either."""

    kind = "storage"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate an OSError into StorageFailed while ``path`` is written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageFailed(f"{path}: cannot be written ({reason})", name=reason) from error
