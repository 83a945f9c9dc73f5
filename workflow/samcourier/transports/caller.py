"""Whom a Hypha server takes us for, until when, and what it lets us do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .session import ANSWER_TIMEOUT_S


@dataclass(frozen=True)
class Caller:
    """Who the server says we are; ``parent`` is the user who made the token.

    ``right`` is that to ``workspace``: list, read, write, admin or None. ``workspace_clients`` are
    connected to that workspace, None where the server does not say.
    """

    user: str
    workspace: str
    is_anonymous: bool
    right: str | None
    expires_unix_s: float | None
    parent: str | None = None
    workspace_clients: int | None = None
    server_version: str | None = None


#: Of Hypha's UserPermission.
_RIGHTS = {"n": None, "l": "list", "r": "read", "rw": "write", "a": "admin"}


async def identify(server: Any) -> Caller:
    """Return what the server said of us when the connection was opened."""
    user = server.config.get("user") or {}
    workspace = str(server.config.get("workspace"))
    return Caller(
        user=str(user.get("email") or user.get("id") or "unknown"),
        workspace=workspace,
        is_anonymous=bool(user.get("is_anonymous")),
        right=_right_to(workspace, user),
        expires_unix_s=_number(user.get("expires_at")),
        parent=_text(user.get("parent")),
        server_version=_text(server.config.get("hypha_version")),
        workspace_clients=await _count_clients(server),
    )


def _right_to(workspace: str, user: Mapping[str, Any]) -> str | None:
    workspaces = (user.get("scope") or {}).get("workspaces") or {}
    said = workspaces.get(workspace) or workspaces.get("*")
    return _RIGHTS.get(str(said), str(said)) if said is not None else None


def _text(said: object) -> str | None:
    return said if isinstance(said, str) and said else None


def _number(said: object) -> float | None:
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None


async def _count_clients(server: Any) -> int | None:
    """Return how many are connected to our workspace; older servers do not tell, nor all rights."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return len(await server.list_clients())
    except Exception:
        return None
