"""Who may call which method, by the identity that Hypha verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..contract.errors import NotAuthorized

EVERYONE = "*"
EVERY_METHOD = "*"

_WHAT_TO_DO = "ask the person who runs it to add you to its authorized users"


class AccessRules:
    """Users by method: e-mail addresses, ids, or ``*`` for everyone.

    The rule ``*`` holds for every method without its own rule; without it nobody may call these.
    """

    def __init__(self, users_by_method: Mapping[str, Iterable[str]]) -> None:
        self._users = {method: frozenset(users) for method, users in users_by_method.items()}

    @classmethod
    def for_users(cls, users: Iterable[str]) -> AccessRules:
        """Return rules that let these users, or everyone if there are none, call every method."""
        return cls({EVERY_METHOD: list(users) or [EVERYONE]})

    def check(self, method: str, context: Mapping[str, Any] | None) -> None:
        """Raise :class:`NotAuthorized` unless the caller in ``context`` may call ``method``.

        ``context`` is hypha-rpc's; its ``user`` has ``id`` and ``email`` as Hypha verified them.
        """
        allowed = self._users.get(method, self._users.get(EVERY_METHOD, frozenset()))
        if not self._includes(allowed, context):
            raise NotAuthorized(
                f"{_caller(context)} may not call {method} of this service: {_WHAT_TO_DO}"
            )

    def check_any(self, context: Mapping[str, Any] | None) -> None:
        """Raise :class:`NotAuthorized` unless the caller may call at least one method."""
        if not any(self._includes(allowed, context) for allowed in self._users.values()):
            raise NotAuthorized(f"{_caller(context)} may not use this service: {_WHAT_TO_DO}")

    @staticmethod
    def _includes(allowed: frozenset[str], context: Mapping[str, Any] | None) -> bool:
        return EVERYONE in allowed or bool(allowed & _identities(context))


def _identities(context: Mapping[str, Any] | None) -> frozenset[str]:
    user = (context or {}).get("user")
    if not isinstance(user, Mapping):
        return frozenset()
    names = (user.get("id"), user.get("email"))
    # A user with the name "*" must not match the rule for everyone.
    return frozenset(n for n in names if isinstance(n, str) and n) - {EVERYONE}


def _caller(context: Mapping[str, Any] | None) -> str:
    user = (context or {}).get("user")
    name = (user.get("email") or user.get("id")) if isinstance(user, Mapping) else None
    return f"user {name}" if name else "a caller whose identity Hypha did not verify"
