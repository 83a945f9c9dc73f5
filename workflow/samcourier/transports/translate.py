"""Foreign errors -> failure classes, for every transport."""

from __future__ import annotations

import re

from samservice.contract.errors import parse_service_error
from samservice.hypha.refusals import explain_refusal

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

#: How hypha-rpc, and Hypha over HTTP, begin what was raised on the far side.
_FAR_SIDE = re.compile(r"\s*Remote(Error|Exception)\b")

#: What hypha, hypha-rpc and BioEngine's proxy say when they refuse, by class; first match wins.
_PHRASES: tuple[tuple[type[CourierError], re.Pattern[str]], ...] = (
    (
        Denied,
        re.compile(
            r"(?<!\[Errno 13\] )permission denied|PermissionError: (?!\[Errno)|unauthorized"
            r"|not authorized|forbidden|authentication error|failed to authenticate"
            r"|invalid token|token (has )?expired|signature has expired|expired token"
            r"|invalid authorization|JWTError|does not have access|HTTP 40[13]\b"
            r"|(user|ip) is blocked|connected to the wrong workspace",
            re.I,
        ),
    ),
    (
        Overloaded,
        re.compile(
            r"too many (calls|requests)|maximum number of ongoing|\d+ concurrent requests"
            r"|rate limit|server busy|\boverloaded\b|HTTP 429\b",
            re.I,
        ),
    ),
    (ServiceGone, re.compile(r"service not found|client not found|peer not found", re.I)),
    # hypha-rpc's own words for a lost way; the last two are its WebRTC without a context.
    (
        TransportFailed,
        re.compile(
            r"session not found|session does not exist|session was closed|session expired"
            r"|message with key|method (expired or )?not found:|peer \S+ is not connected"
            r"|connection (is|was) closed|failed to send the request|cannot send message"
            r"|method call timed out|BufferFull"
            r"|context is required|keyword-only argument: 'context'",
            re.I,
        ),
    ),
)

#: Said on this side, these mean the way; said by a model they may mean anything.
_NEAR_SIDE_TRANSPORT = re.compile(
    r"connection|timed? ?out|websocket|channel|failed to send|buffer|peer|disconnected|closed", re.I
)


def translate(error: BaseException, transport: str) -> CourierError:
    """Return the failure class of an exception that came out of a transport.

    A service's own named error counts first, then the words the servers use. What is left
    came out of the remote method itself and is the service's failure. Of a remote traceback
    only its last line counts: the frames above it quote file names and code.
    """
    if isinstance(error, CourierError):
        return error
    text = str(error)
    named = parse_service_error(text)
    if named is not None:
        return _CLASS_OF_KIND[named.kind](named.message, name=type(named).__name__)
    name = type(error).__name__
    said = f"{transport}: {name}: {last_line(text)}"
    is_far = is_from_far_side(text)
    words = last_line(text) if is_far else f"{name}: {text}"
    for error_class, pattern in _PHRASES:
        if pattern.search(words):
            return error_class(said, name=name)
    if not is_far and _NEAR_SIDE_TRANSPORT.search(words):
        return TransportFailed(said, name=name)
    # hypha-rpc refuses a token with a ConnectionAbortedError, so words count before types.
    if isinstance(error, OSError | TimeoutError | EOFError):
        return TransportFailed(said, name=name)
    return ServiceFailed(said, name=name)


def translate_opening(
    error: BaseException, transport: str, token: str | None = None
) -> CourierError:
    """As :func:`translate`, for an opening: nothing was asked of the service, so it cannot fail.

    Of a refused ``token`` the message names the owner, and says what to do.
    """
    translated = translate(error, transport)
    if translated is error:
        return translated
    if type(translated) is ServiceFailed:
        return TransportFailed(str(translated), name=translated.name)
    explained = explain_refusal(str(error), token, caller="the caller")
    if explained and isinstance(translated, Denied) and parse_service_error(str(error)) is None:
        return Denied(f"{transport}: {explained}", name=translated.name)
    return translated


def is_from_far_side(text: str) -> bool:
    """Whether an error's text was carried here from the method that was called."""
    return _FAR_SIDE.match(text) is not None


def last_line(text: str) -> str:
    """Return the last line that says something, which in a traceback is the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
