"""Foreign errors -> failure classes, for every transport."""

from __future__ import annotations

import re

from samservice.errors import parse_service_error

from ..errors import (
    CourierError,
    Denied,
    ImageUnfit,
    Overloaded,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    TransportFailed,
)

_CLASS_OF_KIND: dict[str, type[CourierError]] = {
    "image": ImageUnfit,
    "request": RequestRefused,
    "overload": Overloaded,
    "service": ServiceFailed,
    "denied": Denied,
}

#: What hypha, hypha-rpc and BioEngine's proxy say when they refuse, by class; first match wins.
_PHRASES: tuple[tuple[type[CourierError], re.Pattern[str]], ...] = (
    (
        Denied,
        re.compile(
            r"permission denied|unauthorized|not authorized|forbidden|authentication error"
            r"|invalid token|token (has )?expired|signature has expired|expired token"
            r"|invalid authorization|JWTError|does not have access|HTTP 40[13]\b",
            re.I,
        ),
    ),
    (
        Overloaded,
        re.compile(
            r"too many (calls|requests)|maximum number of ongoing|rate limit|overload", re.I
        ),
    ),
    (ServiceGone, re.compile(r"service not found|client not found|peer not found", re.I)),
    (
        TransportFailed,
        re.compile(
            r"connection|timed? ?out|websocket|channel|failed to send|buffer|session not found"
            r"|peer|disconnected|closed",
            re.I,
        ),
    ),
)


def translate(error: BaseException, transport: str) -> CourierError:
    """Return the failure class of an exception that came out of a transport.

    A service's own named error counts first, then the words the servers use. What is left
    came out of the remote method itself and is the service's failure.
    """
    if isinstance(error, CourierError):
        return error
    text = str(error)
    named = parse_service_error(text)
    if named is not None:
        return _CLASS_OF_KIND[named.kind](named.message, name=type(named).__name__)
    name = type(error).__name__
    said = f"{transport}: {name}: {last_line(text)}"
    for error_class, pattern in _PHRASES:
        if pattern.search(text):
            return error_class(said, name=name)
    # hypha-rpc refuses a token with a ConnectionAbortedError, so words count before types.
    if isinstance(error, OSError | TimeoutError | EOFError):
        return TransportFailed(said, name=name)
    return ServiceFailed(said, name=name)


def last_line(text: str) -> str:
    """Return the last line that says something, which in a traceback is the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
