"""Summarise the transports of a run: calls, bytes, throughput and wall time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..results.image_log import Attempt, ImageLog
from ..results.service_description import distribution_text
from ..results.timestamps import parse_time


@dataclass(frozen=True)
class TransportUse:
    """What one transport transferred. ``image_count`` counts images whose mask came over it.

    Bytes are payload and include failed calls. ``median_mb_s`` is the median throughput in 10^6
    bytes per second, both directions together and without the service's own time; None if no call
    measured it.
    """

    transport: str
    image_count: int
    call_count: int
    failed_count: int
    up_bytes: int
    down_bytes: int
    median_mb_s: float | None


def summarise_transports(logs: Iterable[ImageLog]) -> list[TransportUse]:
    """Return the use of each transport, the one with most images first."""
    attempts: dict[str, list[Attempt]] = {}
    image_counts: Counter[str] = Counter()
    for log in logs:
        for attempt in log.attempts:
            attempts.setdefault(attempt.transport, []).append(attempt)
        image_counts.update({each.transport for each in log.attempts if each.outcome == "ok"})
    uses = [_use(name, image_counts[name], calls) for name, calls in attempts.items()]
    return sorted(uses, key=lambda use: (-use.image_count, use.transport))


def wall_time_s(logs: Iterable[ImageLog]) -> float:
    """Return the number of seconds during which at least one image was processed.

    Overlapping images count once; a pause between two runs of a dataset does not count.
    """
    return sum(end_s - begin_s for begin_s, end_s in busy_periods(logs))


def busy_periods(
    logs: Iterable[ImageLog], longest_pause_s: float = 0.0
) -> list[tuple[float, float]]:
    """Return the periods in which images were processed, as (begin, end) in Unix seconds.

    A pause of at most ``longest_pause_s`` does not end a period.
    """
    found: list[tuple[float, float]] = []
    for begin_s, end_s in sorted(_span_s(log) for log in logs):
        if found and begin_s - found[-1][1] <= longest_pause_s:
            found[-1] = (found[-1][0], max(found[-1][1], end_s))
        else:
            found.append((begin_s, end_s))
    return found


def describe_services(logs: Sequence[ImageLog]) -> list[str]:
    """Return one line for each engine, model and version that segmented images of the run.

    With more than one line, each has its number of images.
    """
    lines = Counter(_service(log) for log in logs if log.service)
    if len(lines) == 1:
        return list(lines)
    return [f"{line} ({count} images)" for line, count in lines.most_common()]


def _use(name: str, image_count: int, attempts: Sequence[Attempt]) -> TransportUse:
    rates = [rate for each in attempts if (rate := mb_per_s(each)) is not None]
    return TransportUse(
        transport=name,
        image_count=image_count,
        call_count=len(attempts),
        failed_count=sum(each.outcome == "failed" for each in attempts),
        up_bytes=sum(each.bytes.up for each in attempts),
        down_bytes=sum(each.bytes.down for each in attempts),
        median_mb_s=statistics.median(rates) if rates else None,
    )


def mb_per_s(attempt: Attempt) -> float | None:
    """Return the throughput in 10^6 payload bytes per second, both directions together.

    None for a failed call and for one whose transfer time is not known.
    """
    seconds = attempt.seconds
    if attempt.outcome == "failed":
        return None
    if seconds.send is not None and seconds.receive is not None:
        transfer_s = seconds.send + seconds.receive
    elif seconds.service is not None:
        transfer_s = seconds.total - seconds.service
    else:
        return None
    payload_bytes = attempt.bytes.up + attempt.bytes.down
    return payload_bytes / transfer_s / 1e6 if transfer_s > 0 else None


def _span_s(log: ImageLog) -> tuple[float, float]:
    """Return when the processing of the image began and ended, in Unix seconds."""
    end_s = parse_time(log.finished_at).timestamp()
    return end_s - max(log.seconds.total, 0.0), end_s


def _service(log: ImageLog) -> str:
    engine, model, version = (
        log.service.get(name, "unknown") for name in ("engine", "model", "segmentation_version")
    )
    sha256 = str(log.service.get("model_sha256") or "")
    weights = f" (sha256 {sha256[:12]})" if sha256 else ""
    origin = distribution_text(log.service)
    of_package = f" of {origin}" if origin else ""
    return f"{engine}{of_package}, model {model}{weights}, segmentation version {version}"
