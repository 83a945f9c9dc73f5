"""The facts that the doctor gathers; an :class:`Unknown` replaces a fact that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...results.service_description import ServiceDescription
from ...transports.caller import Caller
from ...transports.ice_servers import IceAnswer
from ..forecast import Forecast


@dataclass(frozen=True)
class Unknown:
    """The reason why a fact is missing. ``kind`` is the failure class, ``late`` after a timeout.

    ``not_checked`` means that the fact depends on another fact that is missing.
    """

    why: str
    kind: str = "late"


@dataclass(frozen=True)
class ServerFact:
    """The server's answer to a health check; ``clock_ahead_s`` is its clock minus ours."""

    url: str
    is_hypha: bool
    answer: str
    seconds: float
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class DiskFact:
    """The file system of the results folder; ``free_files`` is None if it has no such limit."""

    path: str
    is_writable: bool
    free_bytes: int
    free_files: int | None


@dataclass(frozen=True)
class VersionFact:
    """A package, its ``required`` versions, and the version that the project is ``tested`` with."""

    package: str
    installed: str | None
    required: str
    is_met: bool
    tested: str | None = None


@dataclass(frozen=True)
class PaceFact:
    """The pace of earlier images: the service took ``seconds`` for ``images`` of ``pixels``.

    ``is_throughput`` tells that images overlapped and that ``seconds`` is the time from one to the
    next; otherwise it is the time of each image through the service.
    """

    images: int
    pixels: int
    seconds: float
    source: str
    is_throughput: bool = False


@dataclass(frozen=True)
class RunRequest:
    """The part of the run's settings that the checks depend on.

    ``images_left`` is the number of images without mask, ``images`` that of all images of the run.
    ``connections`` is the run's limit of connections. ``embeddings_max_bytes`` is 0 if no
    embeddings are kept.
    """

    target: str
    transport: str
    parameters: Mapping[str, Any]
    images_left: int
    images: int
    connections: int
    outputs: tuple[str, ...] = ()
    keeps_embeddings: bool = False
    embeddings_max_bytes: int = 0


Verdict = dict[str, Any]
ServiceState = Literal["ready", "not_yet"]


@dataclass(frozen=True)
class Facts:
    """The facts known before the run. ``verdicts`` are from :mod:`samcourier.diagnostics.verify`.

    ``service`` is ``not_yet`` if the run itself will start the service. ``replica_ids`` are those
    registered under the service's name. ``refusals`` are the requests that the service refuses, one
    line each.
    """

    request: RunRequest
    forecast: Forecast | Unknown
    service: ServiceState | Unknown
    server: ServerFact | Unknown
    caller: Caller | Unknown
    replica_ids: tuple[str, ...] | Unknown
    description: ServiceDescription
    verdicts: Mapping[str, Verdict | Unknown]
    disk: DiskFact | Unknown
    versions: tuple[VersionFact, ...] | Unknown
    pace: PaceFact | Unknown | None
    ice_servers: tuple[IceAnswer, ...] = ()
    refusals: tuple[str, ...] = ()
    now_unix_s: float = field(default=0.0)
