"""Errors of the service; their names survive every transport.

Hypha carries an exception as text only, and BioEngine's proxy wraps that text in a
``RuntimeError``. The name therefore travels inside the message, as
``[samservice.WrongAxes] ...``, and :func:`parse_service_error` reads it there.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

ErrorKind = Literal["image", "request", "overload", "service", "denied"]


class ServiceError(Exception):
    """Base class of all errors that the service raises deliberately.

    ``kind`` tells the client how to react: ``image`` (this image is not accepted), ``request``
    (the parameters are wrong for every image), ``overload`` (try again later), ``service`` (the
    engine failed), ``denied`` (the caller has no right to call).
    """

    kind: ClassVar[ErrorKind] = "service"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"[samservice.{type(self).__name__}] {self.message}"


class ImageRefused(ServiceError):
    """The service does not accept the image; it will refuse the same image again."""

    kind = "image"


class WrongAxes(ImageRefused):
    """The axes are unknown or do not fit the array's number of dimensions."""


class WrongShape(ImageRefused):
    """An axis has length 0, or the packed bytes do not fill the declared shape."""


class WrongDtype(ImageRefused):
    """The pixel type is not an unsigned/signed integer or a real float."""


class NotFinite(ImageRefused):
    """The image holds NaN or infinite values."""


class ImageTooLarge(ImageRefused):
    """The image has more pixels than the service's limit."""


class WrongParameter(ServiceError):
    """The engine does not accept a parameter's name or value."""

    kind = "request"


class StateNotKept(ServiceError):
    """The service does not hold the state that a request names: send the image's pixels."""

    kind = "request"


class EmbeddingsUnsupported(ServiceError):
    """The engine has no image embeddings, or another model made this embedding."""

    kind = "request"


class ServiceBusy(ServiceError):
    """The queue is full; the service computed nothing."""

    kind = "overload"


class SegmentationFailed(ServiceError):
    """The engine raised, ran out of memory, or returned a mask that does not fit the image."""


class StageHung(ServiceError):
    """The engine did not end with this image, and the service had to restart.

    Another attempt would stop the images of all callers again.
    """

    kind = "image"


class NotConnected(ServiceError):
    """The Hypha server is unreachable, or refuses the service's token or workspace."""


class NotAuthorized(ServiceError):
    """The caller that Hypha verified is not among the authorized users."""

    kind = "denied"


def _all_subclasses(cls: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found = {cls.__name__: cls}
    for subclass in cls.__subclasses__():
        found |= _all_subclasses(subclass)
    return found


_MARK = re.compile(r"\[samservice\.(\w+)\] ?(.*?)(?:\n|\\n|$)")


def parse_service_error(text: str) -> ServiceError | None:
    """Return the error that ``text`` names, or None when it names no error.

    The last name in the text counts: a traceback quotes the message first and ends with the
    exception itself.
    """
    matches = _MARK.findall(text)
    if not matches:
        return None
    name, message = matches[-1]
    error_class = _all_subclasses(ServiceError).get(name, SegmentationFailed)
    return error_class(message.strip().rstrip("\"'"))
