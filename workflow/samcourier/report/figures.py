"""The figures and facts at the head of the report: what happened, and what was run."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..evaluation.accuracy import Accuracy, mean_precision, pooled
from ..evaluation.outcome import Outcome
from ..evaluation.run import Report
from ..results.timestamps import parse_time
from .travel import describe_services, wall_time_s

#: Versions that decide how pixels travel, by the packages' own names.
_TOLD_PACKAGES = ("hypha-rpc", "aiortc", "zarr", "numpy")


class Figure(NamedTuple):
    """``what`` it is, the figure itself, and a remark, "" for none."""

    what: str
    figure: str
    remark: str = ""


class FailureGroup(NamedTuple):
    """Images without a mask for the same class of reasons, the first of them as examples."""

    what: str
    image_count: int
    examples: tuple[Outcome, ...]


def figures_of(report: Report) -> list[Figure]:
    """Return the figures of the summary."""
    done = [outcome for outcome in report.outcomes if outcome.status == "done"]
    counts = Counter(outcome.status for outcome in report.outcomes)
    not_asked = report.not_asked_count
    figures = [
        Figure(
            "Images done",
            f"{counts['done']:,} of {len(report.outcomes):,}",
            f"{not_asked:,} more are not in the subset" if not_asked else "",
        ),
        Figure("Failed", f"{counts['failed']:,}"),
        Figure("Missing", f"{counts['missing']:,}"),
        Figure("Objects", f"{sum(outcome.object_count or 0 for outcome in done):,}"),
    ]
    if older_count := sum(outcome.is_older_version for outcome in done):
        remark = "kept, named in the table; replace: true makes them again"
        figures.append(Figure("Masks of an older engine version", f"{older_count:,}", remark))
    logs = report.logs
    if logs:
        finished = max(parse_time(log.finished_at) for log in logs)
        wall_s = wall_time_s(logs)
        until = f"until {finished:%Y-%m-%d %H:%M} UTC"
        figures.append(Figure("Wall time", duration(wall_s), until))
        worked_on = sum(not log.reused for log in logs)
        if worked_on and wall_s > 0:
            figures.append(Figure("Images a minute", f"{60 * worked_on / wall_s:,.1f}"))
        reused = len(logs) - worked_on
        if reused:
            figures.append(Figure("Reused", f"{reused:,}", "whole masks of an earlier run"))
    return figures


def accuracy_figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Return the figures of the whole dataset, of the images that have a truth."""
    found: list[Accuracy] = [
        each.accuracy for each in outcomes if each.status == "done" and each.accuracy
    ]
    if not found:
        return []
    figures = []
    for name, scores in (
        ("AP50", [each.at_50 for each in found]),
        ("AP75", [each.at_75 for each in found]),
    ):
        remark = f"of {len(found)} with truth; {pooled(scores):.3f} over all objects"
        figures.append(Figure(f"Mean {name}", f"{mean_precision(scores):.3f}", remark))
    ious = [each.mean_matched_iou for each in found if each.mean_matched_iou is not None]
    if ious:
        figures.append(
            Figure(
                "Mean IoU of matched objects",
                f"{statistics.fmean(ious):.3f}",
                f"mean of {len(ious)} images",
            )
        )
    truth_count = sum(each.at_50.true_positives + each.missed for each in found)
    return [
        *figures,
        Figure("Missed", f"{sum(each.missed for each in found):,}", f"of {truth_count:,} in truth"),
        Figure("Split", f"{sum(each.split for each in found):,}", "objects of the truth"),
        Figure("Merged", f"{sum(each.merged for each in found):,}", "objects of the masks"),
    ]


def facts_of(report: Report) -> list[tuple[str, str]]:
    """Return (what, words) of what was run, by what, and where; others' text as it is."""
    facts = [("Dataset", report.dataset_dir.name)]
    facts += [("Segmented by", line) for line in describe_services(report.logs)]
    began = report.run_environment
    if began is None:
        return facts
    service = began.config.get("service")
    if isinstance(service, Mapping) and service.get("server_url"):
        facts.append(("Server", str(service["server_url"])))
    if parameters := began.config.get("parameters"):
        facts.append(("Parameters", _words(parameters)))
    installed = {name.replace("_", "-").lower(): number for name, number in began.packages.items()}
    packages = [f"{name} {installed[name]}" for name in _TOLD_PACKAGES if name in installed]
    facts.append(
        (
            "Versions",
            ", ".join([f"samcourier {began.samcourier}, Python {began.python}", *packages]),
        )
    )
    if began.workflow.commit is not None:
        changed = ", with files changed since" if began.workflow.is_dirty else ""
        facts.append(("Commit", f"{began.workflow.commit[:12]}{changed}"))
    memory = f", {began.machine.memory_bytes / 2**30:.0f} GiB" if began.machine.memory_bytes else ""
    facts.append(
        ("Client", f"{began.machine.system}, {began.machine.cores} cores{memory}"),
    )
    facts.append(("Started", f"{parse_time(began.started_at):%Y-%m-%d %H:%M:%S} UTC"))
    return facts


def rerun_command(report: Report) -> str | None:
    """Return the command that makes the masks again and compares them; None without a crate."""
    if report.run_environment is None:
        return None
    return shlex.join(["samcourier", "rerun", str(report.dataset_dir)])


def group_failures(outcomes: Sequence[Outcome], most_examples: int = 10) -> list[FailureGroup]:
    """Return the images without a mask by the class of their failure, the largest group first."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status != "done":
            groups.setdefault(_class_of(outcome), []).append(outcome)
    return [
        FailureGroup(what, len(members), tuple(members[:most_examples]))
        for what, members in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _class_of(outcome: Outcome) -> str:
    if outcome.log is not None and outcome.log.failure is not None:
        return f"{outcome.log.failure.kind}: {outcome.log.failure.name}"
    return outcome.status


def _words(parameters: Any) -> str:
    if not isinstance(parameters, Mapping):
        return str(parameters)
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest_s:02d} s"
