"""Sum the time of the images by stage, and say what would make a run faster."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..results.image_log import CallSeconds, ImageLog

#: The stages of an image in their order. The whole time of a failed call counts as "failed calls".
STAGES = (
    "read",
    "pack",
    "send",
    "queue",
    "service",
    "service: prepare",
    "service: model",
    "service: finish",
    "receive",
    "unpack",
    "write",
    "calls without stage times",
    "failed calls",
)

SERVICE_STAGES = ("service", "service: prepare", "service: model", "service: finish")

#: If failed calls take at least this share of the time, the advice is about them.
_FAILED_SHARE = 0.15

_SERVICE_ADVICE = (
    "A faster GPU or more replicas of the service would help; a faster network would not."
)
_ADVICE = {
    "read": "Put the images on a faster or local disk, or run more batches at the same time.",
    "pack": "The client compresses images more slowly than the network sends them: give it more"
    " processor cores.",
    "send": "A faster connection to the service would help most: a service closer to the images, a"
    " faster uplink, or a transport that a firewall blocks at present (samcourier doctor).",
    "receive": "A faster connection from the service would help most: a service closer to the"
    " results folder, a faster downlink, or a transport that a firewall blocks at present"
    " (samcourier doctor).",
    "unpack": "The client decompresses and checks masks too slowly: give it more processor cores.",
    "write": "Put the results on a faster disk, or select fewer outputs.",
    "calls without stage times": "The service does not report how long it computes, so transfer and"
    " computation cannot be separated: deploy the service that comes with samcourier.",
}


@dataclass(frozen=True)
class StageUse:
    """The time of one stage: seconds of all images, its share of all stages, median per image."""

    stage: str
    total_s: float
    share: float
    median_s: float


def stage_seconds(log: ImageLog) -> dict[str, float]:
    """Return the seconds of one image by stage, in the order of :data:`STAGES`.

    "write" includes making the outputs (tables, previews and others).
    """
    own = log.seconds
    seconds = dict.fromkeys(STAGES, 0.0)
    seconds |= {"read": own.read or 0.0, "pack": own.pack or 0.0, "unpack": own.unpack or 0.0}
    seconds["write"] = (own.write or 0.0) + (own.outputs or 0.0)
    for attempt in log.attempts:
        call = attempt.seconds
        if attempt.outcome == "failed":
            seconds["failed calls"] += call.total
        elif call.send is None and call.receive is None and call.service is None:
            seconds["calls without stage times"] += call.total
        else:
            for stage, part in (
                ("send", call.send),
                ("queue", call.queue),
                *_service_parts(call),
                ("receive", call.receive),
            ):
                seconds[stage] += part or 0.0
    return seconds


def _service_parts(call: CallSeconds) -> list[tuple[str, float | None]]:
    """Return the seconds of the service, by its stages where it reports them."""
    if call.prepare is None or call.infer is None or call.finish is None:
        return [("service", call.service)]
    known_s = call.prepare + call.infer + call.finish
    return [
        ("service", max((call.service or 0.0) - known_s, 0.0)),
        ("service: prepare", call.prepare),
        ("service: model", call.infer),
        ("service: finish", call.finish),
    ]


def summarise_stages(logs: Iterable[ImageLog]) -> list[StageUse]:
    """Return the stages that took time, over the images that this run processed."""
    images = [stage_seconds(log) for log in logs if log.attempts or not log.reused]
    all_stages_s = sum(sum(each.values()) for each in images)
    uses = []
    for stage in STAGES:
        seconds = [each[stage] for each in images]
        if (total_s := sum(seconds)) > 0:
            uses.append(
                StageUse(stage, total_s, total_s / all_stages_s, statistics.median(seconds))
            )
    return uses


def advise(uses: Sequence[StageUse]) -> str:
    """Return sentences that name the stage with most of the time and what would make it faster."""
    if not uses:
        return "This run segmented no image, so nothing was measured."
    by_stage = {use.stage: use for use in uses}
    failed = by_stage.pop("failed calls", None)
    if failed is not None and (failed.share >= _FAILED_SHARE or not by_stage):
        return (
            f"Failed calls took {failed.share:.0%} of the images' time. Connection events, below,"
            " gives the reasons; to leave out a transport that never works, set transport in the"
            " config."
        )
    queue = by_stage.pop("queue", None)
    of_service = [by_stage.pop(stage) for stage in SERVICE_STAGES if stage in by_stage]
    service_share = sum(use.share for use in (queue, *of_service) if use is not None)
    longest = max(by_stage.values(), key=lambda use: use.share, default=None)
    if longest is not None and longest.share > service_share:
        return (
            f"{longest.share:.0%} of the images' time was spent in the stage '{longest.stage}'."
            f" {_ADVICE[longest.stage]}"
        )
    waiting = f", {queue.share:.0%} in the service's queue" if queue else ""
    return (
        f"{service_share:.0%} of the images' time was spent at the service{waiting}."
        f" {_SERVICE_ADVICE}"
    )
