"""Translate the errors of libraries, servers and services to failure classes."""

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

#: How hypha-rpc, and Hypha over HTTP, begin the text of an error of the called method.
_FAR_SIDE = re.compile(r"\s*Remote(Error|Exception)\b")

#: Texts of hypha, hypha-rpc and BioEngine's proxy when they refuse, by class; the first match wins.
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
    # hypha-rpc's texts for a lost connection; the last two are from WebRTC without a context.
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

#: In an error of the client, these mean the transport; in one of a model they may mean anything.
_NEAR_SIDE_TRANSPORT = re.compile(
    r"connection|timed? ?out|websocket|channel|failed to send|buffer|peer|disconnected|closed", re.I
)


def translate(error: BaseException, transport: str) -> CourierError:
    """Return the failure class of an exception of ``transport``.

    A named error of the service takes precedence, then the known texts of the servers. Any other
    error came from the remote method and is a failure of the service. Only the last line of a
    remote traceback is used: the frames above it quote file names and code.
    """
    if isinstance(error, CourierError):
        return error
    text = str(error)
    named = parse_service_error(text)
    if named is not None:
        return _CLASS_OF_KIND[named.kind](named.message, name=type(named).__name__)
    name = type(error).__name__
    message = f"{transport}: {name}: {last_line(text)}"
    is_far = is_from_far_side(text)
    phrase = last_line(text) if is_far else f"{name}: {text}"
    for error_class, pattern in _PHRASES:
        if pattern.search(phrase):
            return error_class(message, name=name)
    if not is_far and _NEAR_SIDE_TRANSPORT.search(phrase):
        return TransportFailed(message, name=name)
    # hypha-rpc refuses a token with a ConnectionAbortedError, so texts are tested before types.
    if isinstance(error, OSError | TimeoutError | EOFError):
        return TransportFailed(message, name=name)
    return ServiceFailed(message, name=name)


def translate_opening(
    error: BaseException, transport: str, token: str | None = None
) -> CourierError:
    """Return the failure class of an exception while opening ``transport``.

    This is :func:`translate`, except that a failure of the service becomes TransportFailed, because
    no method was called. For a refused ``token`` the message names its owner and what to do.
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
    """Tell whether an error's text comes from the called method."""
    return _FAR_SIDE.match(text) is not None


def last_line(text: str) -> str:
    """Return the last line with text, at most 300 characters; in a traceback it is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
