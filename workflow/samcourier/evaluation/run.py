"""What a report is made of: everything that a run left, gathered once."""

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
    """Every asked image in the order of the sheet, and what the connections went through.

    ``rows`` and ``outcomes`` go together. ``run_environment`` are None when the folder does not say
    what the run began with.
    """

    dataset_dir: Path
    rows: tuple[ImageRow, ...]
    outcomes: tuple[Outcome, ...]
    not_asked_count: int
    changes: Changes
    run_environment: RunEnvironment | None

    @property
    def without_mask(self) -> list[str]:
        """Ids of the asked images that have no whole mask."""
        return [outcome.image for outcome in self.outcomes if outcome.status != "done"]

    @property
    def logs(self) -> list[ImageLog]:
        """The logs that could be read."""
        return [outcome.log for outcome in self.outcomes if outcome.log]


#: A network file system answers each look after a while, but many at once.
_MASKS_AT_ONCE = 16
#: So many images are handed to a thread together.
_PART = 32


def build_report(
    rows: Sequence[ImageRow],
    batches: Sequence[Batch],
    dataset_dir: Path,
    only: Collection[str] | None = None,
) -> Report:
    """Gather what the run left in ``dataset_dir``; nothing is written.

    ``only`` names the images that were asked for; None stands for all of ``rows``.
    """
    batch_ids = {row.image: batch.batch_id for batch in batches for row in batch.rows}
    asked = rows_of_subset(rows, only)
    manifests = _manifests(batches, dataset_dir)

    def judge_some(some: Sequence[ImageRow]) -> list[Outcome]:
        return [evaluate_image(row, batch_ids[row.image], dataset_dir, manifests) for row in some]

    # What is compared with a truth takes memory, one after the other.
    at_once = 1 if any(row.truth is not None for row in asked) else _MASKS_AT_ONCE
    parts = [asked[start : start + _PART] for start in range(0, len(asked), _PART)]
    with ThreadPoolExecutor(at_once) as judges:
        outcomes = tuple(outcome for part in judges.map(judge_some, parts) for outcome in part)
    return Report(
        dataset_dir=dataset_dir,
        rows=tuple(asked),
        outcomes=outcomes,
        not_asked_count=len(rows) - len(asked),
        changes=read_changes(dataset_dir / "logs/connection"),
        run_environment=read_run_environment(dataset_dir),
    )


def _manifests(batches: Sequence[Batch], dataset_dir: Path) -> dict[str, Manifest]:
    ids = [batch.batch_id for batch in batches]
    found = {each: read_manifest(manifest_path(dataset_dir, each)) for each in ids}
    return {each: manifest for each, manifest in found.items() if manifest}
