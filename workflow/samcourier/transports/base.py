"""The interface between the connection manager and the transports to a service.

A transport opens, calls a method by name, and closes. It raises only the classes of
:mod:`samcourier.errors`: it translates the exceptions of its libraries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .network import Network


@dataclass(frozen=True)
class Endpoint:
    """The address of a service, and the credentials to call it.

    Attributes:
        server_url: The URL of the Hypha server.
        workspace: The workspace in which Hypha resolves bare names; None is the token's own.
        service_id: ``workspace/client:name``, ``workspace/name`` or a bare name.
        rtc_service_id: The same for the service that answers WebRTC offers.
        token: The Hypha token, None for an anonymous caller.
        network: The ICE servers and the certificates of the site.
    """

    server_url: str
    workspace: str | None
    service_id: str
    rtc_service_id: str
    token: str | None = field(default=None, repr=False)
    network: Network = field(default_factory=Network)


class Transport(Protocol):
    """One transport to a service. Calls may overlap; ``close`` may be called at any time, twice."""

    @property
    def name(self) -> str:
        """The name of its entry point, used in logs and config."""
        ...

    async def open(self, timeout_s: float) -> None:
        """Connect within ``timeout_s`` seconds; raise TransportFailed, ServiceGone or Denied."""
        ...

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call ``method(**arguments)`` on the service and return its answer.

        Raises TransportFailed after ``timeout_s`` seconds, and any failure class that the answer
        names.
        """
        ...

    def progress(self) -> int:
        """Return how many bytes are known to have moved since its creation, in both directions."""
        ...

    def state(self) -> str:
        """Return the state of the connection, in the terms of its library."""
        ...

    async def close(self) -> None:
        """Release everything, without waiting for the far side."""
        ...
