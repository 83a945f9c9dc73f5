"""Estimate the duration and the output size of a run from the facts. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from ..forecast import Forecast
from .facts import Facts, PaceFact, Unknown

#: Size of a packed image, or mask, over that of its pixels (docs/decisions/0003-wire-format.md).
PACKED_IMAGE_RATIO = 1.6
PACKED_MASK_RATIO = 50.0
#: Bytes per pixel of a compressed mask with its smaller levels, without the overhead of its files.
MASK_BYTES_PER_PIXEL = 0.1
#: The smallest size of a file on most file systems.
BLOCK_BYTES = 4096
#: Bytes per pixel of the mask for each output: a table, polygons or a preview.
OUTPUT_BYTES_PER_PIXEL = 0.5


@dataclass(frozen=True)
class Estimate:
    """The seconds of the whole run, and the basis of the estimate."""

    seconds: float
    basis: str


def estimate_run(facts: Facts) -> Estimate | None:
    """Return the duration of the pending images, None if there is no basis for an estimate.

    Images travel while others are segmented, so the slower of the two counts.
    """
    pace, forecast = facts.pace, facts.forecast
    if pace is None or isinstance(pace, Unknown) or isinstance(forecast, Unknown):
        return None
    if not pace.pixels or not pace.images:
        return None
    image_s = _image_s(pace, forecast, facts.description.scales_images)
    replicas = 1 if isinstance(facts.replica_ids, Unknown) else max(len(facts.replica_ids), 1)
    overlapping = 1 if pace.is_throughput else facts.description.limits.in_parallel
    service_s = image_s / replicas / overlapping
    travel_s = _travel_s(facts, forecast)
    seconds = facts.request.images_left * max(service_s, travel_s)
    basis = (
        f"{image_s:.2g} s per image at the service, from {pace.images} images of {pace.source}"
        + (f", {replicas} replicas" if replicas > 1 else "")
        + (
            f"; the transfer in both directions takes longer, {travel_s:.2g} s"
            if travel_s > service_s
            else ""
        )
    )
    return Estimate(seconds, basis)


def _image_s(pace: PaceFact, forecast: Forecast, scales_images: bool) -> float:
    """Return the seconds that the service takes for an image of this run.

    They are proportional to the number of pixels, but where the model scales every image to one
    size, a smaller image takes as long as the earlier ones.
    """
    call_s = pace.seconds / pace.images
    if forecast.mask_pixels is None:
        return call_s
    times = forecast.mask_pixels * pace.images / pace.pixels
    return call_s * (max(times, 1.0) if scales_images else times)


def _travel_s(facts: Facts, forecast: Forecast) -> float:
    """Return the seconds of an image's transfer in both directions over the fastest transport."""
    if forecast.image_bytes is None or forecast.mask_pixels is None:
        return 0.0
    up_bytes = forecast.image_bytes / PACKED_IMAGE_RATIO
    down_bytes = 4 * forecast.mask_pixels / PACKED_MASK_RATIO
    transports_s = [
        up_bytes * large["send_s"] / large["bytes_up"]
        + down_bytes * large["receive_s"] / large["bytes_down"]
        for verdict in facts.verdicts.values()
        if not isinstance(verdict, Unknown) and verdict["works"]
        for large in [verdict["large"]]
        if large["send_s"] is not None and large["bytes_down"]
    ]
    return max(min(transports_s), 0.0) if transports_s else 0.0


def estimate_bytes(facts: Facts, forecast: Forecast) -> float:
    """Return roughly how many bytes the run writes, counting whole blocks for small files."""
    pixels = (forecast.mask_pixels or 0.0) * forecast.images
    outputs = len(facts.request.outputs)
    embedding_bytes = facts.description.embedding_bytes or 0
    embeddings = min(embedding_bytes * forecast.images, facts.request.embeddings_max_bytes)
    return (
        pixels * (MASK_BYTES_PER_PIXEL + OUTPUT_BYTES_PER_PIXEL * outputs)
        + forecast.files * BLOCK_BYTES
        + (embeddings if facts.request.keeps_embeddings else 0)
    )
