"""A transport's failure -> which known defect it is, and what to do about it. Pure.

The first four are hypha-rpc's WebRTC (``docs/decisions/0002-webrtc.md``): what is said of them is
what a caller of a service with exactly that defect sees, shown in
``tests/contract/test_verdicts.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..failure import Failure

#: Where it failed: opening, a call with next to nothing, a large request, a large reply of which
#: nothing came, or one whose bytes came and made no answer.
Step = Literal["open", "small", "large_up", "large_down", "large_answer"]


@dataclass(frozen=True)
class Defect:
    """A known defect by name, and one sentence on what to do."""

    name: str
    advice: str


_PATCH = (
    "the service's WebRTC is hypha-rpc's own; deploy this service (samcourier serve, or"
    " service.target bioengine), whose endpoint is mended, and meanwhile the other transports carry"
    " the images"
)

CONTEXT_REQUIRED = Defect("context_required", f"large requests lose the caller (D1): {_PATCH}")
CONTEXT_MISSING = Defect("context_missing", f"methods are not told the caller (D2): {_PATCH}")
MESSAGE_TOO_LARGE = Defect(
    "message_too_large", f"its messages are larger than a data channel takes (D3): {_PATCH}"
)
REPLY_LOST = Defect(
    "reply_lost",
    "replies above a chunk never arrive (D4): the calling side is a hypha-rpc that was not"
    " told its own user; update samcourier, and meanwhile the other transports carry the images",
)
HEALTH_CHECK_BROKEN = Defect(
    "health_check_broken",
    "BioEngine's own health check fails since require_context was taken from its proxy's service,"
    " which does not mend WebRTC either: put the flag back, and use the app's -direct service",
)
NOT_REGISTERED = Defect(
    "not_registered",
    "nothing of that name is registered: is the service running, and is service_id what its start"
    " said? A service without WebRTC has no -rtc endpoint",
)
ICE_FAILED = Defect(
    "ice_failed",
    "no direct path: UDP is closed or both sides are behind NAT; name a TURN server in"
    " network.ice_servers if WebRTC is needed, the other transports do without",
)
DENIED = Defect(
    "denied", "the token does not admit this user: renew it, or have the user authorized"
)
OTHER = Defect("other", "not a known defect: the service's own log may say more")

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

#: How samcourier's WebRTC says that the handshake went well and no path was found.
_NO_CHANNEL = re.compile(r"no channel within|the connection is ")


def find_defect(failure: Failure, transport: str, step: Step) -> Defect:
    """Return the defect that a failure at this step of this transport is."""
    if failure.kind == "denied":
        return DENIED
    for defect, words in _PHRASES:
        if words.search(failure.message):
            return defect
    if transport == "webrtc" and failure.kind == "transport":
        if step == "open" and _NO_CHANNEL.search(failure.message):
            return ICE_FAILED
        if step == "large_answer":
            return REPLY_LOST
        if step == "large_down":
            return MESSAGE_TOO_LARGE
    return OTHER
