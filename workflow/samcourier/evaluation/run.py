"""Gather the results of a run for its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files.strict_json import canonical_json
from ..results.environment import RunEnvironment, read_run_environment
from ..results.image_log import ImageLog
from ..results.layout import manifest_path
from ..results.manifest import Manifest, read_manifest
from ..results.service_description import is_older_version, read_verified_service, version_text
from ..samples.sheet import Batch, ImageRow, rows_of_subset
from .outcome import Outcome, evaluate_image
from .transport_changes import Changes, read_changes


@dataclass(frozen=True)
class Report:
    """The images of the run in the order of the sheet, and its transport changes.

    ``rows`` and ``outcomes`` have the same order. ``outside_subset_count`` is the number of images
    of the sheet outside the subset. ``run_environment`` is None if the folder has no record of it.
    """

    dataset_dir: Path
    rows: tuple[ImageRow, ...]
    outcomes: tuple[Outcome, ...]
    outside_subset_count: int
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
_IMAGES_PER_TASK = 32


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
    parts = [
        subset[start : start + _IMAGES_PER_TASK]
        for start in range(0, len(subset), _IMAGES_PER_TASK)
    ]
    with ThreadPoolExecutor(workers) as executor:
        evaluated = [outcome for part in executor.map(evaluate, parts) for outcome in part]
    return Report(
        dataset_dir=dataset_dir,
        rows=tuple(subset),
        outcomes=_mark_older_versions(evaluated, read_verified_service(dataset_dir)),
        outside_subset_count=len(rows) - len(subset),
        changes=read_changes(dataset_dir / "logs/connection"),
        run_environment=read_run_environment(dataset_dir),
    )


def _manifests(batches: Sequence[Batch], dataset_dir: Path) -> dict[str, Manifest]:
    ids = [batch.batch_id for batch in batches]
    found = {each: read_manifest(manifest_path(dataset_dir, each)) for each in ids}
    return {each: manifest for each, manifest in found.items() if manifest}


def _mark_older_versions(
    outcomes: Sequence[Outcome], verified: Mapping[str, Any]
) -> tuple[Outcome, ...]:
    """Return the outcomes, those whose mask is of an older version of the engine with a remark.

    The current version is that of the ``verified`` service, or the highest of the other masks.
    """
    services = [verified, *(each.log.service for each in outcomes if each.log)]
    # One of each kind, since every mask is compared with every service.
    currents = {canonical_json(service): service for service in services}.values()

    def marked(outcome: Outcome) -> Outcome:
        if outcome.status != "done" or outcome.log is None:
            return outcome
        service = outcome.log.service
        newer = [each for each in currents if is_older_version(service, each)]
        if not newer:
            return outcome
        current = next(each for each in newer if not any(is_older_version(each, o) for o in newer))
        remark = (
            f"made by version {version_text(service)} of the engine, now {version_text(current)}:"
            " replace: true makes it again"
        )
        return replace(
            outcome,
            is_older_version=True,
            remark="; ".join(filter(None, (outcome.remark, remark))),
        )

    return tuple(map(marked, outcomes))
