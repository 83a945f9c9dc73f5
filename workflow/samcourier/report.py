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

from .accuracy import Accuracy, mean_precision, pooled
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
from .plain_text import plain
from .records import write_atomic, write_json
from .report_table import COLUMNS, column_groups, tsv
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
    not_asked_count: int
    events: tuple[dict[str, Any], ...]

    @property
    def without_mask(self) -> list[str]:
        """Ids of the asked images that have no whole mask."""
        return [outcome.image for outcome in self.outcomes if outcome.status != "done"]

    @property
    def logs(self) -> list[ImageLog]:
        """The logs that could be read."""
        return [outcome.log for outcome in self.outcomes if outcome.log]


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
    asked = [row for row in rows if only is None or row.image in only]
    manifests = _manifests(batches, dataset_dir)
    return Report(
        dataset_dir=dataset_dir,
        outcomes=tuple(judge(row, batch_ids[row.image], dataset_dir, manifests) for row in asked),
        not_asked_count=len(rows) - len(asked),
        events=tuple(read_connection_journals(dataset_dir / "logs" / "connection")),
    )


def write_report(
    report: Report, html_path: Path, tsv_path: Path, complete_path: Path | None = None
) -> list[str]:
    """Write the page, the table and ``logs/connection.jsonl``; return the images without mask.

    ``complete_path``, the number of images and the key of each one's mask, is written only when
    every asked image has a whole mask; otherwise an older one is removed.
    """
    logs_dir = report.dataset_dir / "logs"
    merge_connection_journals(logs_dir / "connection", logs_dir / "connection.jsonl")
    write_atomic(html_path, render_page(report))
    write_atomic(tsv_path, tsv(report.outcomes))
    if complete_path is not None and report.without_mask:
        complete_path.unlink(missing_ok=True)
    elif complete_path is not None:
        keys = {outcome.image: outcome.key for outcome in report.outcomes}
        write_json(complete_path, {"image_count": len(keys), "keys": keys})
    return report.without_mask


def render_page(report: Report) -> str:
    """Return the report as one HTML document that needs neither scripts nor a network."""
    environment = Environment(
        loader=PackageLoader("samcourier"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    # Opening and probing is routine; what changed the way states its reason or error.
    decisions = [event for event in report.events if {"reason", "error"} & event.keys()]
    return environment.get_template("report.html.j2").render(
        name=report.dataset_dir.name,
        outcomes=report.outcomes,
        failures=[outcome for outcome in report.outcomes if outcome.status != "done"],
        figures=_figures(report),
        columns=COLUMNS,
        groups=column_groups(),
        services=describe_services(report.logs),
        transports=summarise_transports(report.logs),
        decisions=[_decision(event) for event in decisions[:_MOST_EVENTS]],
        decision_count=len(decisions),
    )


def _manifests(batches: Sequence[Batch], dataset_dir: Path) -> dict[str, Manifest]:
    ids = [batch.batch_id for batch in batches]
    found = {each: read_manifest(manifest_path(dataset_dir, each)) for each in ids}
    return {each: manifest for each, manifest in found.items() if manifest}


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """Return (what, figure, remark) of each figure of the summary."""
    done = [outcome for outcome in report.outcomes if outcome.status == "done"]
    counts = Counter(outcome.status for outcome in report.outcomes)
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
    figures += _accuracy_figures([each.accuracy for each in done if each.accuracy])
    if report.logs:
        finished = max(parse_time(log.finished_at) for log in report.logs)
        until = f"until {finished:%Y-%m-%d %H:%M} UTC"
        figures.append(("Wall time", _duration(wall_time_s(report.logs)), until))
    return figures


def _accuracy_figures(found: Sequence[Accuracy]) -> list[tuple[str, str, str]]:
    """Return the figures of the whole dataset, of the images that have a truth."""
    if not found:
        return []
    figures = []
    for name, scores in (
        ("AP50", [each.at_50 for each in found]),
        ("AP75", [each.at_75 for each in found]),
    ):
        remark = f"of {len(found)} with truth; {pooled(scores):.3f} of all their objects together"
        figures.append((f"Mean {name}", f"{mean_precision(scores):.3f}", remark))
    ious = [each.mean_matched_iou for each in found if each.mean_matched_iou is not None]
    if ious:
        figures.append(
            (
                "Mean IoU of matched objects",
                f"{statistics.fmean(ious):.3f}",
                f"mean of {len(ious)} images",
            )
        )
    truth_count = sum(each.at_50.true_positives + each.missed for each in found)
    figures += [
        ("Missed", f"{sum(each.missed for each in found):,}", f"of {truth_count:,} in the truth"),
        ("Split", f"{sum(each.split for each in found):,}", "objects of the truth"),
        ("Merged", f"{sum(each.merged for each in found):,}", "objects of the masks"),
    ]
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
