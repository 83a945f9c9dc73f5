"""Explain a Hypha server's refusals: who was refused, for what reason, and what to do."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime

TOKEN_PLACES = "HYPHA_TOKEN or the token file"

_EXPIRED = re.compile(r"(token|signature) has expired|expired token", re.I)
_WRONG_WORKSPACE = re.compile(
    r"workspace encoded in the token \((?P<own>[^)]*)\) does not match the specified workspace"
    r" \((?P<wanted>[^)]*)\)"
)
_UNKNOWN_TOKEN = re.compile(
    r"(authentication error|failed to authenticate user|invalid (token|authorization))[:. ]*"
    r"(?P<detail>.*)|(?P<http_detail>error decoding token.*|signature verification failed.*)",
    re.I,
)
#: The server also reports an "authentication error" when it cannot fetch the keys for the check.
_VOID_TOKEN = re.compile(
    r"authentication error: *(signature verification failed|error decoding|not enough segments"
    r"|invalid )|token has been revoked",
    re.I,
)
_NO_WORKSPACE = re.compile(r"permission denied for workspace:? *(?P<wanted>[\w.|-]*)", re.I)
_NOT_PUBLIC = re.compile(
    r"permission denied for (non-public service|invoking protected|getting protected)", re.I
)


def explain_refusal(
    message: str, token: str | None = None, *, caller: str | None = None
) -> str | None:
    """Return an explanation of a server's message, None when it is no known refusal.

    Args:
        message: The server's message.
        token: The token that was sent; only its owner and its time of expiry are repeated.
        caller: Name of the caller where the token is not available.
    """
    who = _owner(token) if token else caller or "an anonymous caller (no token is given)"
    if _EXPIRED.search(message):
        return (
            f"the token of {who} has expired{_since(token)}: "
            f"get a new one from the server and put it into {TOKEN_PLACES}"
        )
    if found := _WRONG_WORKSPACE.search(message):
        return (
            f"the token of {who} is for workspace {found['own']!r}, not for {found['wanted']!r}: "
            f"put one for {found['wanted']!r} into {TOKEN_PLACES}, or name the token's workspace"
        )
    if found := _NO_WORKSPACE.search(message):
        return (
            f"{who} has no right to workspace {found['wanted']!r}: "
            f"ask its owner for a token and put it into {TOKEN_PLACES}"
        )
    if _NOT_PUBLIC.search(message):
        return (
            f"{who} is no member of the service's workspace, and the service is not public: "
            f"put a token for that workspace into {TOKEN_PLACES}, or have the service made public"
        )
    if found := _UNKNOWN_TOKEN.search(message):
        detail = (found["detail"] or found["http_detail"] or "").strip(" .")
        return (
            f"the server does not accept the token of {who}{f' ({detail})' if detail else ''}: "
            f"check {TOKEN_PLACES}"
        )
    return None


def is_final(message: str) -> bool:
    """Return True if the server would refuse the same token at every further attempt.

    Any other refusal may be temporary: a starting server refuses for many reasons.
    """
    known = (_EXPIRED, _WRONG_WORKSPACE, _VOID_TOKEN, _NO_WORKSPACE)
    return any(each.search(message) for each in known)


def _claims(token: str | None) -> dict[str, object]:
    """Return the unverified claims of a JSON web token, {} for any other token."""
    _, _, rest = (token or "").partition(".")
    payload = rest.partition(".")[0]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _owner(token: str) -> str:
    claims = _claims(token)
    emails = [value for name, value in claims.items() if name.endswith("email") and value]
    return str((emails or [claims.get("sub") or "an unknown user"])[0])


def _since(token: str | None) -> str:
    ended_unix_s = _claims(token).get("exp")
    if not isinstance(ended_unix_s, int | float):
        return ""
    return f" on {datetime.fromtimestamp(ended_unix_s, UTC):%Y-%m-%d at %H:%M} UTC"
