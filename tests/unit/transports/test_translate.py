"""Foreign errors -> failure classes, in the words that the servers and libraries really use."""

from __future__ import annotations

import traceback

import httpx
import msgpack
import pytest
from hypha_rpc.rpc import RemoteException
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

from samcourier.errors import (
    CourierError,
    Denied,
    ImageUnfit,
    Overloaded,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    TransportFailed,
)
from samcourier.transports.http import _failure
from samcourier.transports.translate import last_line, translate, translate_opening
from samservice.contract.errors import (
    EmbeddingsUnsupported,
    ImageTooLarge,
    NotAuthorized,
    NotFinite,
    SegmentationFailed,
    ServiceBusy,
    ServiceError,
    StageHung,
    WrongAxes,
    WrongDtype,
    WrongParameter,
    WrongShape,
)


def remote(error: Exception) -> RemoteException:
    """Return ``error`` as hypha-rpc carries it: its text, then its traceback."""
    try:
        raise error
    except Exception as raised:
        trace = "".join(traceback.format_exception(raised))
        return RemoteException(f"RemoteError:{raised}\n{trace}")


def proxied(error: Exception) -> RemoteException:
    """Return ``error`` as BioEngine's proxy passes it on: a text within a RuntimeError."""
    return remote(RuntimeError(f"Error calling 'segment_all': {error}"))


def over_http(status: int, detail: str) -> CourierError:
    return _failure(httpx.Response(status, json={"success": False, "detail": detail}), "describe")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WrongAxes("axes ZYX need 3 dimensions"), ImageUnfit),
        (WrongShape("an empty axis"), ImageUnfit),
        (WrongDtype("complex64"), ImageUnfit),
        (NotFinite("4 NaN"), ImageUnfit),
        (ImageTooLarge("1e9 px"), ImageUnfit),
        (StageHung("the stage infer did not end within 480 s"), ImageUnfit),
        (WrongParameter("sigma=-1"), RequestRefused),
        (EmbeddingsUnsupported("watershed has none"), RequestRefused),
        (ServiceBusy("32 images are waiting"), Overloaded),
        (SegmentationFailed("MemoryError: 8 GiB"), ServiceFailed),
        (NotAuthorized("a@b.c"), Denied),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ServiceError) else "",
)
@pytest.mark.parametrize("carry", [lambda error: error, remote, proxied])
def test_a_named_error_keeps_its_name_over_every_transport(
    error: ServiceError, expected: type[CourierError], carry: object
) -> None:
    translated = translate(carry(error), "websocket")  # type: ignore[operator]
    assert type(translated) is expected
    assert translated.name == type(error).__name__
    assert str(translated) == error.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # A model's words are not the way's.
        (SegmentationFailed("OSError: connection to the GPU timed out"), ServiceFailed),
        (SegmentationFailed("PermissionError: Permission denied"), ServiceFailed),
        (WrongParameter("'overload' is unknown, rate limit 3"), RequestRefused),
        (NotFinite("/data/timeout/closed channel.tif holds 3 NaN"), ImageUnfit),
    ],
    ids=lambda value: "",
)
def test_a_named_error_is_not_mistaken_for_its_words(
    error: ServiceError, expected: type[CourierError]
) -> None:
    assert type(translate(remote(error), "webrtc")) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # hypha's first answer on a WebSocket, raised by hypha-rpc as it is.
        (
            ConnectionAbortedError(
                "Authentication error: The token has expired. Please fetch a new one"
            ),
            Denied,
        ),
        (ConnectionAbortedError("Authentication error: Signature verification failed."), Denied),
        (ConnectionAbortedError("Authentication error: Invalid algorithm: none"), Denied),
        (
            ConnectionAbortedError(
                "Failed to establish connection: Permission denied for workspace: ws-1"
            ),
            Denied,
        ),
        (
            ConnectionAbortedError(
                "Failed to establish connection: Failed to authenticate user: Current workspace "
                "encoded in the token (ws-a) does not match the specified workspace (ws-b)"
            ),
            Denied,
        ),
        (ConnectionAbortedError("User is blocked: abuse"), Denied),
        (Exception("Connected to the wrong workspace: ws-anonymous, expected: ws-b"), Denied),
        (InvalidStatus(Response(401, "Unauthorized", Headers())), Denied),
        (InvalidStatus(Response(403, "Forbidden", Headers())), Denied),
        (ConnectionAbortedError("Server busy, please retry"), Overloaded),
        # Another way may still be open to a user with too many connections: HTTP needs none.
        (
            ConnectionAbortedError(
                "Connection limit exceeded: user u has 200/200 connections",
            ),
            TransportFailed,
        ),
        (
            ConnectionAbortedError(
                "Failed to establish connection: Client already exists and is active: ws/c"
            ),
            TransportFailed,
        ),
        (InvalidStatus(Response(502, "Bad Gateway", Headers())), TransportFailed),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, Exception) else "",
)
def test_a_refused_connection_names_the_person_to_ask(
    error: Exception, expected: type[CourierError]
) -> None:
    translated = translate(error, "websocket")
    assert type(translated) is expected
    assert translated.name == type(error).__name__
    assert str(translated) == f"websocket: {type(error).__name__}: {error}"


RATE = "Rate limit exceeded: too many messages per second"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("Connection is closed"), TransportFailed),
        (ConnectionError("WebSocket reconnection timed out"), TransportFailed),
        (ConnectionError("Peer ws/client is not connected"), TransportFailed),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)"), TransportFailed),
        (OSError("Multiple exceptions: [Errno 111], [Errno 101]"), TransportFailed),
        (EOFError(), TransportFailed),
        (TimeoutError(), TransportFailed),
        (TimeoutError("Method call timed out: ws/c:built-in.get, context: x"), TransportFailed),
        (TimeoutError("Session expired (TTL=3600s): k"), TransportFailed),
        (ConnectionClosedError(None, None), TransportFailed),
        (ConnectionClosedError(Close(1009, "message too big"), None), TransportFailed),
        (ConnectionClosedError(Close(1008, RATE), None), Overloaded),
        (msgpack.exceptions.BufferFull(), TransportFailed),
        (Exception("data channel closed"), TransportFailed),
        (Exception("WebRTC Connection failed"), TransportFailed),
        (
            Exception(
                "Failed to send the request when calling method (ws/c:services.x.y), error: "
                "Cannot send message of 262451 bytes"
            ),
            TransportFailed,
        ),
        (httpx.ReadTimeout("timed out"), TransportFailed),
        (httpx.RemoteProtocolError("Server disconnected without a response."), TransportFailed),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Exception) else "",
)
def test_a_failed_transport_is_distinguished_from_a_failed_service(
    error: Exception, expected: type[CourierError]
) -> None:
    translated = translate(error, "webrtc")
    assert type(translated) is expected
    assert translated.name == type(error).__name__


FULL = (
    "Application 'micro-sam' has reached its maximum of 10 concurrent requests. "
    "Please try again in a moment."
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(FULL), Overloaded),
        (PermissionError("User 'u' (a@b.c) is not authorized to call 'segment_all'"), Denied),
        (PermissionError("Invalid context without user information"), Denied),
        (PermissionError("Permission denied for non-public service in workspace w"), Denied),
        (PermissionError("Caller's public key is not in the trusted keys list for m"), Denied),
        (KeyError("Service not found: ws/*:segmenter@*"), ServiceGone),
        (Exception("Session not found: abc.resolve"), TransportFailed),
        (Exception("Method not found: services.segmenter.segment_all at c"), TransportFailed),
        (Exception("Method expired or not found: abc.resolve"), TransportFailed),
        (Exception("session does not exist anymore: abc"), TransportFailed),
        (KeyError("Message with key abc does not exists."), TransportFailed),
        # What hypha-rpc's WebRTC makes of a large call, and of a method that wants a context.
        (AssertionError("Context is required"), TransportFailed),
        (TypeError("f() missing 1 required keyword-only argument: 'context'"), TransportFailed),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, Exception) else "",
)
def test_errors_of_the_service_are_translated(
    error: Exception, expected: type[CourierError]
) -> None:
    translated = translate(remote(error), "websocket")
    assert type(translated) is expected
    assert translated.name == "RemoteException"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected 3 channels, got 2"),
        ValueError("cannot read /data/timeout/connection 3.tif"),
        OSError("[Errno 13] Permission denied: '/models/vit_b.pt'"),
        RuntimeError("CUDA error: peer mapping resources exhausted"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB; buffer"),
        TypeError("no matching overload found for torch.conv2d"),
        ValueError("the contour is not closed"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:60],
)
def test_a_failure_of_the_model_is_a_service_failure_with_any_text(error: Exception) -> None:
    translated = translate(remote(error), "webrtc")
    assert type(translated) is ServiceFailed
    assert str(error) in str(translated)


def test_the_frames_of_a_remote_traceback_are_not_its_words() -> None:
    error = RemoteException(
        "RemoteError:index 7 is out of bounds\n"
        "Traceback (most recent call last):\n"
        '  File "/opt/hypha_rpc/websocket_client.py", line 3161, in _process_message\n'
        "    result = method(*args, **kwargs)  # permission denied, connection timeout\n"
        "IndexError: index 7 is out of bounds\n"
    )
    translated = translate(error, "websocket")
    assert type(translated) is ServiceFailed
    assert str(translated) == ("websocket: RemoteException: IndexError: index 7 is out of bounds")


@pytest.mark.parametrize(
    ("status", "detail", "expected", "name"),
    [
        (401, "The token has expired. Please fetch a new one", Denied, "HTTP401"),
        (401, "Token not found", Denied, "HTTP401"),
        (403, "PermissionError: Permission denied for workspace w", Denied, "HTTP403"),
        (404, "KeyError: 'Service not found: w/*:s@*'", ServiceGone, "HTTP404"),
        (404, "describe not found.", RequestRefused, "NoSuchMethod"),
        (429, "Rate limit exceeded. Please slow down.", Overloaded, "HTTP429"),
        (502, "Bad gateway", TransportFailed, "HTTP502"),
        (504, "TimeoutError: Method call timed out: x, context: y", TransportFailed, "HTTP504"),
        (400, "RemoteException: ValueError: expected 3 channels", ServiceFailed, "RuntimeError"),
        (500, f"RemoteException: RuntimeError: {FULL}", Overloaded, "RuntimeError"),
        (
            500,
            "RemoteException: samservice.errors.ServiceBusy: [samservice.ServiceBusy] 32 wait",
            Overloaded,
            "ServiceBusy",
        ),
        (
            403,
            "RemoteException: ArithmeticError: PermissionError: [Errno 13] weights.pt",
            ServiceFailed,
            "RuntimeError",
        ),
        # Hypha makes a 404 of a model's KeyError.
        (404, "RemoteException: KeyError: 'decoder_state'", ServiceFailed, "RuntimeError"),
        (
            403,
            "RemoteException: samservice.contract.errors.SegmentationFailed: "
            "[samservice.SegmentationFailed] PermissionError: weights",
            ServiceFailed,
            "SegmentationFailed",
        ),
    ],
)
def test_an_http_answer_is_read_before_its_status(
    status: int, detail: str, expected: type[CourierError], name: str
) -> None:
    translated = over_http(status, detail)
    assert type(translated) is expected
    assert translated.name == name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AttributeError("offer"), TransportFailed),
        (remote(RuntimeError("too many WebRTC peers (64), use WebSocket")), TransportFailed),
        (InvalidMessage("did not receive a valid HTTP response"), TransportFailed),
        (InvalidStatus(Response(429, "Too Many Requests", Headers())), Overloaded),
        (ConnectionAbortedError("Authentication error: The token has expired."), Denied),
        (remote(KeyError("Service not found: ws/*:segmenter@*")), ServiceGone),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, Exception) else "",
)
def test_an_opening_cannot_fail_by_the_services_work(
    error: Exception, expected: type[CourierError]
) -> None:
    assert type(translate_opening(error, "webrtc")) is expected


@pytest.mark.parametrize("error", [Denied("token"), ServiceGone("gone"), ImageUnfit("NaN")])
def test_translated_errors_stay_unchanged(error: CourierError) -> None:
    assert translate(error, "http") is error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one", "one"),
        ("Traceback:\n  File x\nValueError: two\n\n", "ValueError: two"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_last_line_is_the_message(text: str, line: str) -> None:
    assert last_line(text) == line
