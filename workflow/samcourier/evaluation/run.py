"""Gather the results of a run for its report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..results.environment import RunEnvironment, read_run_environment
from ..results.image_log import ImageLog
from ..results.layout import manifest_path
from ..results.manifest import Manifest, read_manifest
from ..samples.sheet import Batch, ImageRow, rows_of_subset
from .outcome import Outcome, evaluate_image
from .transport_changes import Changes, read_changes


@dataclass(frozen=True)
class Report:
    """The images of the run in the order of the sheet, and its transport changes.

    ``rows`` and ``outcomes`` have the same order. ``not_asked_count`` counts the sheet's images
    outside the subset. ``run_environment`` is None if the folder has no record of it.
    """

    dataset_dir: Path
    rows: tuple[ImageRow, ...]
    outcomes: tuple[Outcome, ...]
    not_asked_count: int
    changes: Changes
    run_environment: RunEnvironment | None

    @property
    def without_mask(self) -> list[str]:
        """Ids of the images of the run that have no complete mask."""
        return [outcome.image for outcome in self.outcomes if outcome.status != "done"]

    @property
    def logs(self) -> list[ImageLog]:
        """The logs that could be read."""
        return [outcome.log for outcome in self.outcomes if outcome.log]


#: Concurrent evaluations: a network file system answers each request slowly, but many at a time.
_CONCURRENT_EVALUATIONS = 16
#: Number of images that a thread evaluates together.
_PART = 32


def build_report(
    rows: Sequence[ImageRow],
    batches: Sequence[Batch],
    dataset_dir: Path,
    only: Collection[str] | None = None,
) -> Report:
    """Gather the results of the run in ``dataset_dir``; nothing is written.

    ``only`` limits the report to images with these ids; None is all of ``rows``.
    """
    batch_ids = {row.image: batch.batch_id for batch in batches for row in batch.rows}
    subset = rows_of_subset(rows, only)
    manifests = _manifests(batches, dataset_dir)

    def evaluate(part: Sequence[ImageRow]) -> list[Outcome]:
        return [evaluate_image(row, batch_ids[row.image], dataset_dir, manifests) for row in part]

    # Comparing masks with ground truth takes memory, so it runs one image at a time.
    workers = 1 if any(row.truth is not None for row in subset) else _CONCURRENT_EVALUATIONS
    parts = [subset[start : start + _PART] for start in range(0, len(subset), _PART)]
    with ThreadPoolExecutor(workers) as executor:
        outcomes = tuple(outcome for part in executor.map(evaluate, parts) for outcome in part)
    return Report(
        dataset_dir=dataset_dir,
        rows=tuple(subset),
        outcomes=outcomes,
        not_asked_count=len(rows) - len(subset),
        changes=read_changes(dataset_dir / "logs/connection"),
        run_environment=read_run_environment(dataset_dir),
    )


def _manifests(batches: Sequence[Batch], dataset_dir: Path) -> dict[str, Manifest]:
    ids = [batch.batch_id for batch in batches]
    found = {each: read_manifest(manifest_path(dataset_dir, each)) for each in ids}
    return {each: manifest for each, manifest in found.items() if manifest}
