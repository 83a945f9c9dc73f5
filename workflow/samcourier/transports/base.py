"""The seam between the connection manager and the ways to reach a service.

A transport opens, calls a method by name, and closes. It raises the classes of
:mod:`samcourier.errors` only: foreign exceptions are translated at its edge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .network import Network


@dataclass(frozen=True)
class Endpoint:
    """Where a service is: the server's URL, the workspace, Hypha ids, and how to be let in.

    ``service_id`` and ``rtc_service_id`` are ``workspace/client:name``, ``workspace/name`` or a
    bare name, which Hypha resolves inside ``workspace``; None is the token's own workspace.
    """

    server_url: str
    workspace: str | None
    service_id: str
    rtc_service_id: str
    token: str | None = field(default=None, repr=False)
    network: Network = field(default_factory=Network)


class Transport(Protocol):
    """One way to the service. Calls may overlap; ``close`` may be called at any time, twice."""

    @property
    def name(self) -> str:
        """The word used in logs and config, that of its entry point."""
        ...

    async def open(self, timeout_s: float) -> None:
        """Get ready to call, or raise TransportFailed, ServiceGone or Denied in time."""
        ...

    async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call ``method(**arguments)`` on the service and return its answer.

        Raises TransportFailed after ``timeout_s``, and any failure class the answer names.
        """
        ...

    def progress(self) -> int:
        """Return how many bytes are known to have moved since it was made, either way."""
        ...

    def state(self) -> str:
        """Return how the connection is, in a word or two of its own library."""
        ...

    async def close(self) -> None:
        """Release everything, waiting for nobody."""
        ...
