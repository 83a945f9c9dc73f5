"""Make the data of the charts that the page's script draws: JSON values of bounded size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..evaluation.outcome import Outcome
from .stages import STAGES, stage_seconds
from .timeline import MAX_BINS, MAX_POINTS, Mark, Prediction, Timeline

#: Okabe and Ito's colours with two greys and a brown; colour-blind readers can distinguish them.
STAGE_COLOURS = {
    "read": "#56B4E9",
    "pack": "#F0E442",
    "send": "#0072B2",
    "queue": "#BBBBBB",
    "service": "#009E73",
    "service: prepare": "#7FCFB5",
    "service: model": "#00664A",
    "service: finish": "#B8E6D6",
    "receive": "#CC79A7",
    "unpack": "#E69F00",
    "write": "#777777",
    "calls without stage times": "#8B5A2B",
    "failed calls": "#D55E00",
}
TRANSPORT_COLOURS = {
    "websocket": "#0072B2",
    "http": "#E69F00",
    "webrtc": "#009E73",
}
#: The colour of transports that other packages provide.
_OTHER_TRANSPORT_COLOUR = "#CC79A7"
_FAILED_COLOUR = "#D55E00"

Chart = dict[str, Any]


def _colour(transport: str) -> str:
    return TRANSPORT_COLOURS.get(transport, _OTHER_TRANSPORT_COLOUR)


def calls_chart(timeline: Timeline, switches: Sequence[Mark]) -> Chart:
    """Return a chart of the calls by transport over time.

    The bars are stacked with the failed calls on top; lines mark the ``switches`` of transport.
    """
    series = [
        _series(name, _colour(name), counts)
        for name, counts in timeline.calls.items()
        if any(counts)
    ]
    series += [
        _series(f"{name} failed", _FAILED_COLOUR, counts)
        for name, counts in timeline.failed.items()
        if any(counts)
    ]
    return {
        "id": "calls",
        "kind": "bars",
        "title": "Calls by transport",
        "alt": _calls_text(timeline, switches),
        "x_label": "seconds since the start",
        "y_label": f"calls that ended within {timeline.bin_s:g} s",
        "x": _bin_middles_s(timeline),
        "series": series,
        "marks": [{"x": round(mark.at_s, 2), "to": mark.transport} for mark in switches],
    }


def rate_chart(timeline: Timeline) -> Chart:
    """Return a chart of the throughput of each transport over time, as points."""
    return {
        "id": "rates",
        "kind": "points",
        "title": "Throughput by transport",
        "alt": "Median throughput of the calls of each transport over time; the table above has"
        " the medians of the whole run.",
        "x_label": "seconds since the start",
        "y_label": "MB/s, both directions",
        "x": _bin_middles_s(timeline),
        "series": [
            _series(name, _colour(name), [rate and _rounded(rate) for rate in rates])
            for name, rates in timeline.mb_s.items()
            if any(rate is not None for rate in rates)
        ],
        "is_y_log": True,
    }


def stage_chart(outcomes: Sequence[Outcome]) -> Chart:
    """Return a chart of the seconds of each stage, one stacked bar per image in the sheet's order.

    With more images than :data:`MAX_BINS`, a bar shows the mean of neighbouring images.
    """
    images = [
        (number, stage_seconds(outcome.log))
        for number, outcome in enumerate(outcomes, start=1)
        if outcome.log is not None and (outcome.log.attempts or not outcome.log.reused)
    ]
    images_per_bar = max(math.ceil(len(images) / MAX_BINS), 1)
    bars = [images[at : at + images_per_bar] for at in range(0, len(images), images_per_bar)]
    means = {
        stage: [_rounded(sum(each[stage] for _, each in bar) / len(bar)) for bar in bars]
        for stage in STAGES
    }
    bar_shows = "each image" if images_per_bar == 1 else f"the mean of {images_per_bar} images"
    return {
        "id": "stages",
        "kind": "bars",
        "title": "Seconds per image by stage",
        "alt": f"Stacked bars, one for {bar_shows}, in the order of the sample sheet; the table"
        " beside it has the sums.",
        "x_label": "image in the order of the sheet",
        "y_label": (
            "seconds" if images_per_bar == 1 else f"seconds, mean of {images_per_bar} images"
        ),
        "x": [sum(number for number, _ in bar) / len(bar) for bar in bars],
        "series": [
            _series(stage, STAGE_COLOURS[stage], values)
            for stage, values in means.items()
            if any(values)
        ],
    }


def prediction_chart(calls: Sequence[Prediction], sentence: str) -> Chart:
    """Return a chart of measured against predicted seconds, at most :data:`MAX_POINTS` points.

    ``sentence`` describes the chart for readers who cannot see it.
    """
    step = -(-len(calls) // MAX_POINTS) if calls else 1
    shown = sorted(calls[::step], key=lambda each: each.predicted_s)
    names = sorted({each.transport for each in shown})
    return {
        "id": "predicted",
        "kind": "points",
        "title": "Transfer time, measured against predicted",
        "alt": sentence,
        "x_label": "predicted seconds",
        "y_label": "measured seconds",
        "x": [_rounded(each.predicted_s) for each in shown],
        "series": [
            _series(
                name,
                _colour(name),
                [_rounded(each.measured_s) if each.transport == name else None for each in shown],
            )
            for name in names
        ],
        "is_x_log": True,
        "is_y_log": True,
        "has_diagonal": True,
    }


def _series(label: str, colour: str, values: Sequence[float | None]) -> dict[str, Any]:
    return {"label": label, "colour": colour, "values": list(values)}


def _bin_middles_s(timeline: Timeline) -> list[float]:
    return [round((number + 0.5) * timeline.bin_s, 2) for number in range(timeline.bin_count)]


def _rounded(number: float) -> float:
    """Return the number with four significant digits, which keeps the page small."""
    return float(f"{number:.4g}")


def _calls_text(timeline: Timeline, switches: Sequence[Mark]) -> str:
    parts = [
        f"{name}: {sum(timeline.calls[name])} calls, {sum(timeline.failed[name])} failed"
        for name in timeline.calls
    ]
    return f"Calls over time. {'; '.join(parts)}. {len(switches)} switches of transport are marked."
