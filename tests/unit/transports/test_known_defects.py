"""Which defect a failure is: tables of what was really said."""

from __future__ import annotations

import pytest

from samcourier.failure import Failure
from samcourier.transports.known_defects import Step, find_defect


@pytest.mark.parametrize(
    ("kind", "message", "transport", "step", "defect"),
    [
        (
            "transport",
            "webrtc: Exception: AssertionError: Context is required",
            "webrtc",
            "large_up",
            "context_required",
        ),
        (
            "transport",
            "webrtc: RemoteException: TypeError: App.segment_all() missing 1 required keyword-only"
            " argument: 'context'",
            "webrtc",
            "small",
            "context_missing",
        ),
        (
            "service",
            "webrtc: RemoteException: TypeError: describe() missing 1 required positional"
            " argument: 'context'",
            "webrtc",
            "small",
            "context_missing",
        ),
        (
            "transport",
            "webrtc: ValueError: Cannot send message of 262451 bytes, peer only accepts 262144",
            "webrtc",
            "large_up",
            "message_too_large",
        ),
        ("transport", "webrtc: TimeoutError: ", "webrtc", "large_down", "message_too_large"),
        ("transport", "webrtc: TimeoutError: ", "webrtc", "large_answer", "reply_lost"),
        ("transport", "webrtc: TimeoutError: ", "webrtc", "large_up", "other"),
        ("transport", "http: TimeoutError: ", "http", "large_down", "other"),
        (
            "service",
            "the health check failed: 'ProxyDeployment' object has no attribute 'get_load'",
            "bioengine",
            "open",
            "health_check_broken",
        ),
        (
            "service",
            "websocket: RemoteException: KeyError: 'Service not found: ws/*:x@*'",
            "websocket",
            "open",
            "not_registered",
        ),
        (
            "transport",
            "webrtc: no channel within 4 s, state new (UDP is blocked, or there is no route)",
            "webrtc",
            "open",
            "ice_failed",
        ),
        (
            "transport",
            "webrtc: ConnectionError: the connection is failed",
            "webrtc",
            "open",
            "ice_failed",
        ),
        ("transport", "webrtc: OSError: connection refused", "webrtc", "open", "other"),
        ("denied", "you may not use this service", "http", "small", "denied"),
        ("service", "[samservice.EngineFailed] out of memory", "webrtc", "small", "other"),
    ],
)
def test_each_failure_has_its_defect_and_advice(
    kind: str, message: str, transport: str, step: Step, defect: str
) -> None:
    found = find_defect(Failure(kind, "Error", message), transport, step)
    assert found.name == defect
    assert found.advice
    assert "\n" not in found.advice
