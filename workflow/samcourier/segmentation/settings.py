"""What the images of a batch share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..concurrency import Limiter
from ..results.service_description import ServiceDescription
from ..settings.run_settings import RunSettings
from .embedding_cache import EmbeddingStore
from .plane import PlaneCaller


@dataclass(frozen=True)
class BatchSettings:
    """The settings of a run, its results folder, and where it keeps embeddings (None: nowhere)."""

    dataset_dir: Path
    run: RunSettings
    embeddings: EmbeddingStore | None = None


@dataclass(frozen=True)
class Shared:
    """What the images of a batch share.

    ``description`` is what the service said of itself; ``places`` are for planes and tiles,
    ``measuring`` for large planes.
    """

    settings: BatchSettings
    description: ServiceDescription
    caller: PlaneCaller
    limiter: Limiter
    measuring: Limiter
