"""What became of every image of a dataset: one page, one table, and whether it is complete.

Nothing is remembered between runs: each report reads logs, manifests, masks and truth again.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .dataset import Batch, ImageRow
from .journal import (
    ImageLog,
    Manifest,
    merge_connection_journals,
    parse_time,
    read_connection_journals,
    read_manifest,
)
from .outcome import Outcome, judge
from .records import write_atomic, write_json
from .report_table import COLUMNS, column_groups, plain, tsv
from .store import manifest_path
from .travel import describe_services, summarise_transports, wall_time_s

#: The page stays readable; ``logs/connection.jsonl`` has every event.
_MOST_EVENTS = 200
_EVENT_COLUMNS = ("at", "batch", "event", "reason", "error")


@dataclass(frozen=True)
class Report:
    """Every asked image in the order of the sheet, and what the connections went through."""

    dataset_dir: Path
    outcomes: tuple[Outcome, ...]
    not_asked = report.not_asked_count
    figures = [
        (
            "Images done",
            f"{counts['done']} of {len(report.outcomes)}",
            f"{not_asked} more were not asked for" if not_asked else "",
        ),
        ("Failed", str(counts["failed"]), ""),
        ("Missing", str(counts["missing"]), ""),
        ("Objects", f"{sum(outcome.object_count or 0 for outcome in done):,}", ""),
    ]
    precisions = [each.average_precision for each in done if each.average_precision is not None]
    if precisions:
        mean = f"{statistics.fmean(precisions):.3f}"
        figures.append(("Mean AP50", mean, f"of {len(precisions)} with truth"))
    if report.logs:
        finished = max(parse_time(log.finished_at) for log in report.logs)
        until = f"until {finished:%Y-%m-%d %H:%M} UTC"
        figures.append(("Wall time", _duration(wall_time_s(report.logs)), until))
    return figures


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest_s:02d} s"


def _decision(event: dict[str, Any]) -> dict[str, str]:
    """Return an event's cells: what it says beyond its own columns goes into details."""
    details = {key: each for key, each in event.items() if key not in _EVENT_COLUMNS}
    return {
        "at": f"{parse_time(event['at']):%Y-%m-%d %H:%M:%S}",
        "batch": event["batch"],
        "event": event["event"],
        "reason": str(event.get("reason", event.get("error"))),
        "details": ", ".join(f"{key} {each}" for key, each in details.items()),
    }
