"""Opens a peer over the fastest WebRTC implementation that is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args

from .peer import Channel, Implementation, Peer


def available_implementations() -> tuple[Implementation, ...]:
    """Return what is installed here, the fastest first."""
    modules = {"wrtc": "webrtc", "aiortc": "aiortc"}
    return tuple(name for name in get_args(Implementation) if find_spec(modules[name]))


def open_peer(
    ice_servers: list[dict[str, Any]],
    *,
    on_channel: Callable[[Channel], None],
    on_lost: Callable[[], None],
    implementation: Implementation | None = None,
) -> Peer:
    """Return a new peer, over ``implementation`` or the fastest that is installed.

    ``ice_servers`` are dictionaries with ``urls``, ``username`` and ``credential``; without any
    urls only the host's own addresses are tried.
    """
    # Each takes a quarter to half a second to import, and only one is wanted.
    if (implementation or available_implementations()[0]) == "wrtc":
        from .wrtc_peer import WrtcPeer

        return WrtcPeer(ice_servers, on_channel, on_lost)
    from .aiortc_peer import AiortcPeer

    return AiortcPeer(ice_servers, on_channel, on_lost)
