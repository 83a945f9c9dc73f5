"""Render a report as one HTML document that needs no network and runs only its own scripts."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..evaluation.nothing_found import has_found_little, nothing_found_sentence
from ..evaluation.run import Report
from ..formatting import plain
from ..results.timestamps import parse_time
from . import charts
from .figures import accuracy_figures, group_failures, rerun_command, run_facts, summary_figures
from .images import table_data
from .pictures import Pictures
from .stages import advise, summarise_stages
from .timeline import (
    Clock,
    Prediction,
    calls_over_time,
    prediction_quality,
    predictions,
    run_clock,
    switch_marks,
)
from .transport_summary import summarise_transports

_EVENT_COLUMNS = ("at", "batch", "event", "reason", "error")

_SCRIPTS = ("vendor/uPlot.iife.min.js", "charts.js", "viewer.js", "images.js")
_STYLES = ("vendor/uPlot.min.css", "report.css")

#: These escapes prevent a text in a data block from ending the block.
_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render_page(report: Report, pictures: Pictures | None = None) -> str:
    """Return the report as one HTML document that needs no network.

    Without ``pictures`` the page says which option of the config makes them.
    """
    pictures = pictures or Pictures()
    environment = Environment(
        loader=PackageLoader("samcourier.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    logs = report.logs
    stages = summarise_stages(logs)
    clock = run_clock(logs)
    calls = predictions(logs)
    prediction_sentence = prediction_quality(calls)
    chart_data = _charts(report, clock, calls, prediction_sentence)
    return environment.get_template("report.html.j2").render(
        name=report.dataset_dir.name,
        policy=content_security_policy(),
        scripts=_scripts(),
        style=_style(),
        figures=summary_figures(report),
        accuracy=accuracy_figures(report.outcomes),
        facts=run_facts(report),
        rerun=rerun_command(report),
        failures=group_failures(report.outcomes),
        nothing_found=nothing_found_sentence(report.outcomes)
        if has_found_little(report.outcomes)
        else None,
        advice=advise(stages),
        stages=stages,
        colours=charts.STAGE_COLOURS,
        transports=summarise_transports(logs),
        predicted=prediction_sentence,
        pause_count=clock.pause_count,
        charts=chart_data,
        pictures=pictures,
        image_count=len(report.outcomes),
        changes=[_change_cells(event) for event in report.changes.first],
        change_count=report.changes.count,
        data=json_block({"charts": chart_data} | table_data(report.outcomes, pictures)),
    )


def content_security_policy() -> str:
    """Return a policy that allows only the page's own scripts and styles and the run's previews."""
    scripts = " ".join(_source(each) for each in _scripts())
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_source(_style())};"
        " img-src data: 'self' file:; base-uri 'none'; form-action 'none'"
    )


def json_block(value: Any) -> str:
    """Return ``value`` as JSON, escaped so that no text in it can end the page's data block."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, escape in _JSON_ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _charts(
    report: Report,
    clock: Clock,
    calls: list[Prediction],
    prediction_sentence: str | None,
) -> list[charts.Chart]:
    found = []
    if any(log.attempts for log in report.logs):
        timeline = calls_over_time(report.logs, clock)
        found += [
            charts.calls_chart(timeline, switch_marks(report.changes.switches, clock)),
            charts.rate_chart(timeline),
            charts.stage_chart(report.outcomes),
        ]
    if prediction_sentence is not None:
        found.append(charts.prediction_chart(calls, prediction_sentence))
    return found


def _source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@functools.cache
def _scripts() -> tuple[str, ...]:
    return tuple(_template(name) for name in _SCRIPTS)


@functools.cache
def _style() -> str:
    return "\n".join(_template(name) for name in _STYLES)


def _template(name: str) -> str:
    return (files("samcourier.report") / "templates" / name).read_text(encoding="utf-8")


def _change_cells(event: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a connection event; fields without an own column go into details."""
    details = {key: each for key, each in event.items() if key not in _EVENT_COLUMNS}
    return {
        "at": f"{parse_time(event['at']):%Y-%m-%d %H:%M:%S}",
        "batch": event["batch"],
        "event": event["event"],
        "reason": str(event.get("reason", event.get("error"))),
        "details": ", ".join(f"{key} {each}" for key, each in details.items() if each is not None),
    }
