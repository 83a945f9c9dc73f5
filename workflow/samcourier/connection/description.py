"""The service's description over an open transport, and whether it is still the same service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samservice.contract.identity import SERVICE_IDENTITY

from ..errors import CourierError, ServiceGone
from ..results.service_description import ServiceDescription, checked_description
from ..transports.base import Transport


class RunIdentity:
    """What identifies the service of a run: its masks come from one model.

    Behind the same id another service may be started at any time.
    """

    def __init__(self) -> None:
        self._mine: dict[str, Any] | None = None

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ServiceGone for a service that would make other masks; any will do at first."""
        other = _identity(identity)
        if self._mine not in (None, other):
            raise ServiceGone(f"it is another service: {other}, expected {self._mine}")

    def settle(self, identity: Mapping[str, Any]) -> None:
        """Go by this service from now on, if by none yet; raise as :meth:`check`."""
        self.check(identity)
        self._mine = _identity(identity)


def _identity(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told.get(name) for name in SERVICE_IDENTITY}


async def describe(transport: Transport, timeout_s: float) -> ServiceDescription:
    """Return what the service says of itself over an open transport.

    It is empty of a service that has no ``describe``. Raises what the transport raises, and as
    :func:`checked_description`.
    """
    try:
        answer = await transport.call("describe", {}, timeout_s)
    except CourierError as error:
        if error.name == "NoSuchMethod":
            return ServiceDescription()
        raise
    return ServiceDescription.of(checked_description(answer))
