"""Read the service's description over an open transport, and check that the service is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samservice.contract.identity import identity_of

from ..errors import CourierError, ServiceGone
from ..results.service_description import ServiceDescription, checked_description
from ..transports.base import Transport


class RunIdentity:
    """The identity of the service of a run, so that all masks come from one model.

    Another service may be started under the same id at any time.
    """

    def __init__(self) -> None:
        self._expected: dict[str, Any] | None = None

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ServiceGone for a service that makes other masks; the first service is accepted."""
        other = identity_of(identity)
        if self._expected not in (None, other):
            raise ServiceGone(f"it is another service: {other}, expected {self._expected}")

    def settle(self, identity: Mapping[str, Any]) -> None:
        """Accept only this service from now on; raises ServiceGone as :meth:`check`."""
        self.check(identity)
        self._expected = identity_of(identity)


async def describe(transport: Transport, timeout_s: float) -> ServiceDescription:
    """Return the service's description, called over an open transport within ``timeout_s``.

    The description is empty when the service has no method ``describe``. Raises the failures of
    the transport, and those of :func:`checked_description`.
    """
    try:
        answer = await transport.call("describe", {}, timeout_s)
    except CourierError as error:
        if error.name == "NoSuchMethod":
            return ServiceDescription()
        raise
    return ServiceDescription.of(checked_description(answer))
