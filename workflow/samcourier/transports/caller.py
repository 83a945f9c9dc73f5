"""The caller as a Hypha server identifies it: user, rights, and expiry of the token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .session import ANSWER_TIMEOUT_S


@dataclass(frozen=True)
class Caller:
    """The caller as reported by the server.

    Attributes:
        user: The e-mail address or the id of the user.
        workspace: The workspace of the connection.
        is_anonymous: Whether the connection has no token.
        right: The right to ``workspace``: list, read, write, admin or None.
        expires_unix_s: When the token expires, None if the server does not report it.
        parent: The user who made the token.
        workspace_clients: How many clients are connected to ``workspace``, None if unknown.
        server_version: The version of Hypha, None if the server does not report it.
    """

    user: str
    workspace: str
    is_anonymous: bool
    right: str | None
    expires_unix_s: float | None
    parent: str | None = None
    workspace_clients: int | None = None
    server_version: str | None = None


#: The values of Hypha's UserPermission.
_RIGHTS = {"n": None, "l": "list", "r": "read", "rw": "write", "a": "admin"}


async def identify(server: Any) -> Caller:
    """Return the caller as the server reported it when ``server`` was connected."""
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
    right = workspaces.get(workspace) or workspaces.get("*")
    return _RIGHTS.get(str(right), str(right)) if right is not None else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


async def _count_clients(server: Any) -> int | None:
    """Return the number of clients in our workspace, None if the server does not report it.

    Older servers do not report it, and others only to callers with certain rights.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return len(await server.list_clients())
    except Exception:
        return None
