"""Make the figures at the top of the report and the facts about the run below them."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..evaluation.accuracy import Accuracy, mean_precision, pooled_precision
from ..evaluation.nothing_found import empty_images
from ..evaluation.outcome import Outcome
from ..evaluation.run import Report
from ..results.image_log import ImageLog
from ..results.timestamps import parse_time
from .transport_summary import describe_services, wall_time_s

#: Packages that transfer or store pixels; the report shows their versions.
_SHOWN_PACKAGES = ("hypha-rpc", "aiortc", "zarr", "numpy")


class Figure(NamedTuple):
    """A figure of the report: its label, its value as text, and a remark ("" for none)."""

    label: str
    value: str
    remark: str = ""


class FailureGroup(NamedTuple):
    """The images whose masks are missing for the same kind of reason.

    ``examples`` has the first of them.
    """

    reason: str
    image_count: int
    examples: tuple[Outcome, ...]


def summary_figures(report: Report) -> list[Figure]:
    """Return the figures of the summary: numbers of images and objects, and times."""
    done = [outcome for outcome in report.outcomes if outcome.status == "done"]
    counts = Counter(outcome.status for outcome in report.outcomes)
    outside_count = report.outside_subset_count
    figures = [
        Figure(
            "Images done",
            f"{counts['done']:,} of {len(report.outcomes):,}",
            f"{outside_count:,} more are not in the subset" if outside_count else "",
        ),
        Figure("Failed", f"{counts['failed']:,}"),
        Figure("Missing", f"{counts['missing']:,}"),
        Figure("Objects", f"{sum(outcome.object_count or 0 for outcome in done):,}"),
    ]
    if empty := empty_images(done):
        figures.append(Figure("Images without an object", f"{len(empty):,}"))
    if older_count := sum(outcome.is_older_version for outcome in done):
        remark = "kept, named in the table; replace: true makes them again"
        figures.append(Figure("Masks of an older engine version", f"{older_count:,}", remark))
    logs = report.logs
    if logs:
        finished = max(parse_time(log.finished_at) for log in logs)
        wall_s = wall_time_s(logs)
        until = f"until {finished:%Y-%m-%d %H:%M} UTC"
        figures.append(Figure("Wall time", duration(wall_s), until))
        segmented_count = sum(not log.reused for log in logs)
        if segmented_count and wall_s > 0:
            figures.append(Figure("Images per minute", f"{60 * segmented_count / wall_s:,.1f}"))
        if (busy := device_busy(logs, wall_s)) is not None:
            remark = "the model's seconds over the wall time, over all replicas"
            figures.append(Figure("Model busy", f"{busy:.0%}", remark))
        reused_count = len(logs) - segmented_count
        if reused_count:
            figures.append(Figure("Reused", f"{reused_count:,}", "masks kept from an earlier run"))
    return figures


def device_busy(logs: Sequence[ImageLog], wall_s: float) -> float | None:
    """Return the seconds of the model's device over the wall time of the run.

    None if a call reports no stages, and for a run without calls.
    """
    seconds = [call.seconds.infer for log in logs for call in log.attempts if call.outcome == "ok"]
    known = [each for each in seconds if each is not None]
    if not seconds or len(known) < len(seconds) or wall_s <= 0:
        return None
    return sum(known) / wall_s


def accuracy_figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Return the accuracy over all images that have a mask and a ground truth, [] without any."""
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
        remark = f"of {len(found)} with truth; {pooled_precision(scores):.3f} over all objects"
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


def run_facts(report: Report) -> list[tuple[str, str]]:
    """Return (label, text) pairs: which service, parameters, software and machine the run used.

    The text may contain control characters, since some of it comes from the service.
    """
    facts = [("Dataset", report.dataset_dir.name)]
    facts += [("Segmented by", line) for line in describe_services(report.logs)]
    environment = report.run_environment
    if environment is None:
        return facts
    service = environment.config.get("service")
    if isinstance(service, Mapping) and service.get("server_url"):
        facts.append(("Server", str(service["server_url"])))
    if parameters := environment.config.get("parameters"):
        facts.append(("Parameters", _parameters_text(parameters)))
    installed = {
        name.replace("_", "-").lower(): number for name, number in environment.packages.items()
    }
    packages = [f"{name} {installed[name]}" for name in _SHOWN_PACKAGES if name in installed]
    facts.append(
        (
            "Versions",
            ", ".join(
                [f"samcourier {environment.samcourier}, Python {environment.python}", *packages]
            ),
        )
    )
    if environment.workflow.commit is not None:
        changed = ", with files changed since" if environment.workflow.is_dirty else ""
        facts.append(("Commit", f"{environment.workflow.commit[:12]}{changed}"))
    memory = (
        f", {environment.machine.memory_bytes / 2**30:.0f} GiB"
        if environment.machine.memory_bytes
        else ""
    )
    facts.append(
        ("Client", f"{environment.machine.system}, {environment.machine.cores} cores{memory}"),
    )
    facts.append(("Started", f"{parse_time(environment.started_at):%Y-%m-%d %H:%M:%S} UTC"))
    return facts


def rerun_command(report: Report) -> str | None:
    """Return the command that makes the masks again and compares them, None without a crate."""
    if report.run_environment is None:
        return None
    return shlex.join(["samcourier", "rerun", str(report.dataset_dir)])


def group_failures(outcomes: Sequence[Outcome], max_examples: int = 10) -> list[FailureGroup]:
    """Return the images without a mask, grouped by the class of their failure.

    The largest group comes first; each has at most ``max_examples`` images as examples.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status != "done":
            groups.setdefault(_class_of(outcome), []).append(outcome)
    return [
        FailureGroup(reason, len(members), tuple(members[:max_examples]))
        for reason, members in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _class_of(outcome: Outcome) -> str:
    if outcome.log is not None and outcome.log.failure is not None:
        return f"{outcome.log.failure.kind}: {outcome.log.failure.name}"
    return outcome.status


def _parameters_text(parameters: Any) -> str:
    if not isinstance(parameters, Mapping):
        return str(parameters)
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def duration(seconds: float) -> str:
    """Return seconds as text, for example ``12.3 s``, ``4 min 05 s`` or ``2 h 07 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest_s:02d} s"
