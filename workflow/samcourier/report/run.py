"""What a report is made of: everything that a run left, gathered once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..outcome import Outcome
from ..results.environment import Circumstances
from ..results.image_log import ImageLog
from ..samples.sheet import ImageRow
from .changes import Changes


@dataclass(frozen=True)
class Report:
    """Every asked image in the order of the sheet, and what the connections went through.

    ``rows`` and ``outcomes`` go together. ``circumstances`` are None when the folder does not say
    what the run began with.
    """

    dataset_dir: Path
    rows: tuple[ImageRow, ...]
    outcomes: tuple[Outcome, ...]
    not_asked_count: int
    changes: Changes
    circumstances: Circumstances | None

    @property
    def without_mask(self) -> list[str]:
        """Ids of the asked images that have no whole mask."""
        return [outcome.image for outcome in self.outcomes if outcome.status != "done"]

    @property
    def logs(self) -> list[ImageLog]:
        """The logs that could be read."""
        return [outcome.log for outcome in self.outcomes if outcome.log]
