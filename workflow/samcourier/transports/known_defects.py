"""Identify the known defect behind a transport's failure, with advice. Pure.

The first four are defects of hypha-rpc's WebRTC (``docs/decisions/0002-webrtc.md``).
``tests/contract/test_verdicts.py`` shows what a caller of a service with each of them sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..failure import Failure

#: The step that failed: opening, a small call, a large request, a large reply of which nothing
#: arrived, or a large reply whose bytes arrived without forming an answer.
Step = Literal["open", "small", "large_up", "large_down", "large_answer"]


@dataclass(frozen=True)
class Defect:
    """The name of a known defect, and the advice in one line."""

    name: str
    advice: str


_PATCH = (
    "the service uses hypha-rpc's own WebRTC. Deploy the service of samcourier (samcourier serve,"
    " or service.target bioengine), which does not have this defect. Until then the other"
    " transports carry the images"
)

CONTEXT_REQUIRED = Defect(
    "context_required", f"the service loses the caller of a large request (D1): {_PATCH}"
)
CONTEXT_MISSING = Defect(
    "context_missing", f"the service does not pass the caller to its methods (D2): {_PATCH}"
)
MESSAGE_TOO_LARGE = Defect(
    "message_too_large", f"the service sends messages too large for a data channel (D3): {_PATCH}"
)
REPLY_LOST = Defect(
    "reply_lost",
    "replies larger than one chunk do not arrive (D4): the client's hypha-rpc does not know its own"
    " user. Update samcourier. Until then the other transports carry the images",
)
HEALTH_CHECK_BROKEN = Defect(
    "health_check_broken",
    "BioEngine's own health check fails because require_context was removed from its proxy."
    " Removing it does not repair WebRTC. Set require_context again, and use the app's -direct"
    " service",
)
NOT_REGISTERED = Defect(
    "not_registered",
    "no service of that name is registered. Check that the service runs and that service_id is the"
    " id that it printed at its start. A service without WebRTC has no -rtc endpoint",
)
ICE_FAILED = Defect(
    "ice_failed",
    "there is no direct path: UDP is blocked, or both sides are behind NAT. If you need WebRTC,"
    " name a TURN server in network.ice_servers. The other transports do not need one",
)
DENIED = Defect(
    "denied", "the token does not give this user access: renew it, or have the user authorized"
)
OTHER = Defect("other", "not a known defect: see the log of the service")

_PHRASES = (
    (CONTEXT_REQUIRED, re.compile(r"context is required", re.I)),
    (CONTEXT_MISSING, re.compile(r"missing 1 required \S+ argument: 'context'", re.I)),
    (MESSAGE_TOO_LARGE, re.compile(r"cannot send message of \d+ bytes", re.I)),
    (HEALTH_CHECK_BROKEN, re.compile(r"\bget_load\b|\bget_num_pcs\b")),
    (
        NOT_REGISTERED,
        re.compile(r"(service|client|peer) not found|no service|has no endpoint", re.I),
    ),
)

#: The messages of samcourier's WebRTC when the handshake succeeded but no path was found.
_NO_CHANNEL = re.compile(r"no channel within|the connection is ")


def find_defect(failure: Failure, transport: str, step: Step) -> Defect:
    """Return the defect behind ``failure`` at ``step`` of ``transport``; OTHER if unknown."""
    if failure.kind == "denied":
        return DENIED
    for defect, phrase in _PHRASES:
        if phrase.search(failure.message):
            return defect
    if transport == "webrtc" and failure.kind == "transport":
        if step == "open" and _NO_CHANNEL.search(failure.message):
            return ICE_FAILED
        if step == "large_answer":
            return REPLY_LOST
        if step == "large_down":
            return MESSAGE_TOO_LARGE
    return OTHER
