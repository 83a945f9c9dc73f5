"""What the images of a batch share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..concurrency import Places
from ..masks.integrity import MaskContainer, OmeZarrVersion
from ..results.service_description import ServiceDescription
from ..settings.run_settings import TileSettings
from .embedding_cache import EmbeddingStore
from .plane import PlaneCaller


@dataclass(frozen=True)
class BatchSettings:
    """What a batch needs to know besides its images."""

    dataset_dir: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    ome_zarr: OmeZarrVersion = "0.4"
    mask_container: MaskContainer = "folder"
    retry_failed: bool = False
    only: Collection[str] | None = None
    tiles: TileSettings = field(default_factory=TileSettings)
    embeddings: EmbeddingStore | None = None
    outputs: Collection[str] = ()


@dataclass(frozen=True)
class Shared:
    """What the images of a batch share.

    ``description`` is what the service said of itself; ``places`` are for planes and tiles,
    ``measuring`` for large planes.
    """

    settings: BatchSettings
    description: ServiceDescription
    caller: PlaneCaller
    places: Places
    measuring: Places
