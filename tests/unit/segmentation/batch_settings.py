"""The settings of a batch, by the keys that a test changes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from samcourier.segmentation.embedding_cache import EmbeddingStore
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings


def batch_settings(
    dataset_dir: Path,
    *,
    only: Collection[str] | None = None,
    embeddings: EmbeddingStore | None = None,
    **keys: Any,
) -> BatchSettings:
    """Return settings with these ``keys`` of the config, limited to the images in ``only``."""
    images = None if only is None else tuple(only)
    run = RunSettings(dataset="cells", images=images, **keys)
    return BatchSettings(dataset_dir, run, embeddings)
