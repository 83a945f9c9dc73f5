"""Failure classes of the client: who has to act on each is said once, here.

A transport translates every foreign exception into one of these at its edge; nothing above
``transports/`` and ``deploy/`` knows an exception of hypha-rpc, aiortc, httpx or websockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CourierError(Exception):
    """Base of every expected failure. ``kind`` is the failure class written to the logs.

    ``name`` is the error's own name: that of the service's error where the service named one.
    """

    kind = "service"

    def __init__(self, message: str, *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name or type(self).__name__

    @property
    def ends_the_way(self) -> bool:
        """Whether the transport it came over must be left: the way or the service is gone."""
        return isinstance(self, TransportFailed | ServiceGone)


class InputError(CourierError):
    """Something the user wrote is wrong: one line saying where, what came, what was expected."""

    kind = "input"


class TransportFailed(CourierError):
    """The way failed, not the work: try the same image over the next transport."""

    kind = "transport"


class Overloaded(CourierError):
    """The service or server asks to wait; the same transport stays good."""

    kind = "overload"


class ServiceFailed(CourierError):
    """The service answered that it failed, or answered with a mask that does not fit."""

    kind = "service"


class ServiceUnfit(ServiceFailed):
    """It failed for so many images and made no mask that somebody has to look at it."""


class ServiceGone(ServiceFailed):
    """No transport reaches the service any more; more images would only fail the same way."""


class ImageUnfit(CourierError):
    """This image cannot be read or is refused; the same pixels will fail again."""

    kind = "image"


class ImageMissing(ImageUnfit):
    """There is no such file; a run that finds it there tries it."""

    kind = "missing"


class ImageUnread(ImageUnfit):
    """The machine could not read it this time (disk, memory); the next run tries it again."""

    kind = "unread"


class ImageChanged(CourierError):
    """The file changed while it was in work; the next run tries it again, whatever its time."""

    kind = "changed"


class RequestRefused(CourierError):
    """The parameters are wrong for every image: stop before burning the dataset."""

    kind = "request"


class Denied(CourierError):
    """Token missing, expired or not allowed: stop at once and say what is needed."""

    kind = "denied"


class StorageFailed(CourierError):
    """The results folder cannot be written: stop, since no other image could be kept either."""

    kind = "storage"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the disk says while ``path`` is written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageFailed(f"{path}: cannot be written ({reason})", name=reason) from error
