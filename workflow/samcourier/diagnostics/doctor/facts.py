"""What is found out before a run. Where something could not be, there is an :class:`Unknown`."""

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
    """Why a fact is missing. ``kind`` is the failure class, ``late`` when its time was over.

    ``not_asked`` is a fact that needs another one, which is missing itself.
    """

    why: str
    kind: str = "late"


@dataclass(frozen=True)
class ServerFact:
    """The server's answer to a look at its health; ``clock_ahead_s`` is its clock less ours."""

    url: str
    is_hypha: bool
    answer: str
    seconds: float
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class DiskFact:
    """The file system of the results folder; ``free_files`` is None where it has no such limit."""

    path: str
    is_writable: bool
    free_bytes: int
    free_files: int | None


@dataclass(frozen=True)
class VersionFact:
    """An installed package: what is ``required`` of it, and what the project is ``tested`` with."""

    package: str
    installed: str | None
    required: str
    is_met: bool
    tested: str | None = None


@dataclass(frozen=True)
class PaceFact:
    """How fast images were segmented: seconds at the service over ``images`` of ``pixels``."""

    images: int
    pixels: int
    seconds: float
    source: str


@dataclass(frozen=True)
class Asked:
    """What the run asks for. ``images_left`` lack a mask, ``connections`` are those of the run.

    ``keeps_embeddings_bytes`` is 0 where none are kept.
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
Where = Literal["ready", "not_yet"]


@dataclass(frozen=True)
class Facts:
    """All that is known before the run. ``verdicts`` are those of
    :mod:`samcourier.diagnostics.verify`.

    ``service`` is ``not_yet`` for one that the run itself brings up; ``replica_ids`` are what is
    registered under its name. ``refusals`` are what the service refuses of what is asked of it.
    """

    asked: Asked
    forecast: Forecast | Unknown
    service: Where | Unknown
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
