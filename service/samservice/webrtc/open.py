"""Open a peer with the fastest installed WebRTC implementation."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args

from .peer import Channel, Implementation, Peer


def available_implementations() -> tuple[Implementation, ...]:
    """Return the installed implementations, the fastest first."""
    modules = {"wrtc": "webrtc", "aiortc": "aiortc"}
    return tuple(name for name in get_args(Implementation) if find_spec(modules[name]))


def open_peer(
    ice_servers: list[dict[str, Any]],
    *,
    on_channel: Callable[[Channel], None],
    on_lost: Callable[[], None],
    implementation: Implementation | None = None,
) -> Peer:
    """Return a new peer, by default with the fastest installed implementation.

    ``ice_servers`` are dictionaries with ``urls``, ``username`` and ``credential``; without
    urls only the host's own addresses are tried.
    """
    # Each import takes a quarter to half a second, and only one is needed.
    if (implementation or available_implementations()[0]) == "wrtc":
        from .wrtc_peer import WrtcPeer

        return WrtcPeer(ice_servers, on_channel, on_lost)
    from .aiortc_peer import AiortcPeer

    return AiortcPeer(ice_servers, on_channel, on_lost)
