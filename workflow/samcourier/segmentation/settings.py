"""Settings and resources that the images of a batch share."""

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
    """The settings of a run, its results folder, and its store of embeddings (None: no store)."""

    dataset_dir: Path
    run: RunSettings
    embeddings: EmbeddingStore | None = None


@dataclass(frozen=True)
class Shared:
    """Settings and resources that the images of a batch share.

    ``description`` is the service's own description. ``limiter`` limits the planes and tiles that
    are called at the same time, ``measuring`` the large planes that are measured.
    """

    settings: BatchSettings
    description: ServiceDescription
    caller: PlaneCaller
    limiter: Limiter
    measuring: Limiter
