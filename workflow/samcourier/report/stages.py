"""Where the time of the images went, stage by stage, and what would make a run faster. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..results.image_log import ImageLog

#: In the order of an image's way. Failed calls count whole, whatever they were doing.
STAGES = (
    "read",
    "pack",
    "up",
    "queue",
    "service",
    "down",
    "unpack",
    "write",
    "undivided calls",
    "failed calls",
)

#: From this share of the time on, failed calls are what to look at first.
_FAILED_SHARE = 0.15

_SERVICE_CURE = (
    "A faster GPU or more replicas of the service would help, a faster network would not."
)
_CURES = {
    "read": "Put the images on a faster or nearer disk, or run more batches at a time.",
    "pack": "The client packs too slowly for its link: give it more processor cores.",
    "up": "A shorter way to the service would help most: a service nearer to the images, a faster"
    " uplink, or a transport that a firewall now blocks (samcourier doctor).",
    "down": "A shorter way from the service would help most: a service nearer to the masks, a"
    " faster downlink, or a transport that a firewall now blocks (samcourier doctor).",
    "unpack": "The client checks masks too slowly: give it more processor cores.",
    "write": "Put the results on a faster disk, or ask for fewer outputs.",
    "undivided calls": "The service does not report how long it works, so transfer and work cannot"
    " be separated: deploy the one that comes with samcourier.",
}


@dataclass(frozen=True)
class StageUse:
    """Seconds that all images together spent in a stage, and a single image's median."""

    stage: str
    total_s: float
    share: float
    median_s: float


def stage_seconds(log: ImageLog) -> dict[str, float]:
    """Return the seconds of one image by stage, in the order of :data:`STAGES`.

    What is made of the mask beside it counts as writing.
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
            seconds["undivided calls"] += call.total
        else:
            for stage, part in (
                ("up", call.send),
                ("queue", call.queue),
                ("service", call.service),
                ("down", call.receive),
            ):
                seconds[stage] += part or 0.0
    return seconds


def summarise_stages(logs: Iterable[ImageLog]) -> list[StageUse]:
    """Return the stages that took time, over the images that were worked on in this run."""
    images = [stage_seconds(log) for log in logs if log.attempts or not log.reused]
    whole_s = sum(sum(each.values()) for each in images)
    uses = []
    for stage in STAGES:
        of_stage = [each[stage] for each in images]
        if (total_s := sum(of_stage)) > 0:
            uses.append(StageUse(stage, total_s, total_s / whole_s, statistics.median(of_stage)))
    return uses


def advise(uses: Sequence[StageUse]) -> str:
    """Return where most of the time went and what would make it faster."""
    if not uses:
        return "This run segmented no image, so nothing was measured."
    by_stage = {use.stage: use for use in uses}
    failed = by_stage.pop("failed calls", None)
    if failed is not None and (failed.share >= _FAILED_SHARE or not by_stage):
        return (
            f"{failed.share:.0%} of the images' time was lost in failed calls. Changes of"
            " connection, below, says why; a transport that never works can be left out with"
            " the config's transport."
        )
    waited = by_stage.pop("queue", None)
    worked = by_stage.pop("service", None)
    at_service = sum(use.share for use in (waited, worked) if use is not None)
    most = max(by_stage.values(), key=lambda use: use.share, default=None)
    if most is not None and most.share > at_service:
        return f"{most.share:.0%} of the images' time went into {most.stage}. {_CURES[most.stage]}"
    waiting = f", {waited.share:.0%} waiting while it worked on other images" if waited else ""
    return (
        f"{at_service:.0%} of the images' time was spent at the service{waiting}. {_SERVICE_CURE}"
    )
