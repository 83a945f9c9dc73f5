"""Figures of a run -> what the page's script draws: plain JSON values, of bounded size. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..evaluation.outcome import Outcome
from .journey import MOST_BINS, MOST_POINTS, Mark, Predicted, Timeline
from .stages import STAGES, stage_seconds

#: Okabe and Ito's colours with two greys and a brown, told apart by colour-blind readers too.
STAGE_COLOURS = {
    "read": "#56B4E9",
    "pack": "#F0E442",
    "up": "#0072B2",
    "queue": "#BBBBBB",
    "service": "#009E73",
    "down": "#CC79A7",
    "unpack": "#E69F00",
    "write": "#777777",
    "undivided calls": "#8B5A2B",
    "failed calls": "#D55E00",
}
TRANSPORT_COLOURS = {
    "websocket": "#0072B2",
    "http": "#E69F00",
    "webrtc": "#009E73",
}
#: Of a transport of another package.
_OTHER_TRANSPORT_COLOUR = "#CC79A7"
_FAILED_COLOUR = "#D55E00"

Chart = dict[str, Any]


def _colour(transport: str) -> str:
    return TRANSPORT_COLOURS.get(transport, _OTHER_TRANSPORT_COLOUR)


def calls_chart(line: Timeline, switches: Sequence[Mark]) -> Chart:
    """Return calls by transport over time as stacked bars, failed ones on top, switches marked."""
    series = [
        _series(name, _colour(name), counts) for name, counts in line.calls.items() if any(counts)
    ]
    series += [
        _series(f"{name} failed", _FAILED_COLOUR, counts)
        for name, counts in line.failed.items()
        if any(counts)
    ]
    return {
        "id": "calls",
        "kind": "bars",
        "title": "Calls by transport",
        "alt": _calls_in_words(line, switches),
        "x_label": "seconds since the start",
        "y_label": f"calls ended in {line.bin_s:g} s",
        "x": _middles(line),
        "series": series,
        "marks": [{"x": round(mark.at_s, 2), "to": mark.transport} for mark in switches],
    }


def rate_chart(line: Timeline) -> Chart:
    """Return the rate of each transport over time as points."""
    return {
        "id": "rates",
        "kind": "points",
        "title": "Throughput by transport",
        "alt": "Median rate of the calls of each transport over time; the table above has the"
        " medians of the whole run.",
        "x_label": "seconds since the start",
        "y_label": "MB/s, both ways",
        "x": _middles(line),
        "series": [
            _series(name, _colour(name), [rate and _short(rate) for rate in rates])
            for name, rates in line.mb_s.items()
            if any(rate is not None for rate in rates)
        ],
        "is_y_log": True,
    }


def stage_chart(outcomes: Sequence[Outcome]) -> Chart:
    """Return the seconds of each stage, image by image in the sheet's order, as stacked bars.

    Where there are more images than bars, a bar is the mean of neighbours.
    """
    images = [
        (number, stage_seconds(outcome.log))
        for number, outcome in enumerate(outcomes, start=1)
        if outcome.log is not None and (outcome.log.attempts or not outcome.log.reused)
    ]
    in_a_bar = max(math.ceil(len(images) / MOST_BINS), 1)
    bars = [images[at : at + in_a_bar] for at in range(0, len(images), in_a_bar)]
    means = {
        stage: [_short(sum(each[stage] for _, each in bar) / len(bar)) for bar in bars]
        for stage in STAGES
    }
    what = "an image" if in_a_bar == 1 else f"{in_a_bar} images' mean"
    return {
        "id": "stages",
        "kind": "bars",
        "title": "Seconds of an image by stage",
        "alt": f"Stacked bars, one for {what}, in the order of the sample sheet; the table beside"
        " it has the sums.",
        "x_label": "image in the order of the sheet",
        "y_label": "seconds" if in_a_bar == 1 else f"seconds, mean of {in_a_bar} images",
        "x": [sum(number for number, _ in bar) / len(bar) for bar in bars],
        "series": [
            _series(stage, STAGE_COLOURS[stage], values)
            for stage, values in means.items()
            if any(values)
        ],
    }


def prediction_chart(calls: Sequence[Predicted], sentence: str) -> Chart:
    """Return predicted against measured seconds as points, at most :data:`MOST_POINTS`."""
    step = -(-len(calls) // MOST_POINTS) if calls else 1
    shown = sorted(calls[::step], key=lambda each: each.predicted_s)
    names = sorted({each.transport for each in shown})
    return {
        "id": "predicted",
        "kind": "points",
        "title": "Time to travel, measured against predicted",
        "alt": sentence,
        "x_label": "predicted seconds",
        "y_label": "measured seconds",
        "x": [_short(each.predicted_s) for each in shown],
        "series": [
            _series(
                name,
                _colour(name),
                [_short(each.measured_s) if each.transport == name else None for each in shown],
            )
            for name in names
        ],
        "is_x_log": True,
        "is_y_log": True,
        "has_diagonal": True,
    }


def _series(label: str, colour: str, values: Sequence[float | None]) -> dict[str, Any]:
    return {"label": label, "colour": colour, "values": list(values)}


def _middles(line: Timeline) -> list[float]:
    return [round((number + 0.5) * line.bin_s, 2) for number in range(line.bin_count)]


def _short(number: float) -> float:
    """Keep four digits: the page has no room for more, and nobody sees them."""
    return float(f"{number:.4g}")


def _calls_in_words(line: Timeline, switches: Sequence[Mark]) -> str:
    parts = [
        f"{name}: {sum(line.calls[name])} calls, {sum(line.failed[name])} failed"
        for name in line.calls
    ]
    return f"Calls over time. {'; '.join(parts)}. {len(switches)} changes of transport marked."
