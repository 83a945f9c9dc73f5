"""A report as one HTML document: no network, and only the scripts that come with it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..evaluation.run import Report
from ..formatting import plain
from ..results.timestamps import parse_time
from . import charts, journey
from .figures import accuracy_figures, facts_of, figures_of, group_failures, rerun_command
from .images import table_data
from .pictures import Pictures
from .stages import advise, summarise_stages
from .travel import summarise_transports

_EVENT_COLUMNS = ("at", "batch", "event", "reason", "error")

_SCRIPTS = ("vendor/uPlot.iife.min.js", "charts.js", "viewer.js", "images.js")
_STYLES = ("vendor/uPlot.min.css", "report.css")

#: With these in a data block no text in it can end the block.
_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render_page(report: Report, pictures: Pictures | None = None) -> str:
    """Return the report as one HTML document that needs no network."""
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
    clock = journey.clock_of(logs)
    calls = journey.predicted_calls(logs)
    sentence = journey.prediction_quality(calls)
    drawn = _charts(report, clock, calls, sentence)
    return environment.get_template("report.html.j2").render(
        name=report.dataset_dir.name,
        policy=content_security_policy(),
        scripts=_scripts(),
        style=_style(),
        figures=figures_of(report),
        accuracy=accuracy_figures(report.outcomes),
        facts=facts_of(report),
        rerun=rerun_command(report),
        failures=group_failures(report.outcomes),
        advice=advise(stages),
        stages=stages,
        colours=charts.STAGE_COLOURS,
        transports=summarise_transports(logs),
        predicted=sentence,
        pause_count=clock.pause_count,
        charts=drawn,
        pictures=pictures,
        image_count=len(report.outcomes),
        decisions=[_decision(event) for event in report.changes.first],
        decision_count=report.changes.count,
        data=json_block({"charts": drawn} | table_data(report.outcomes, pictures)),
    )


def content_security_policy() -> str:
    """Return a policy that lets nothing in but this page's own parts and the run's previews."""
    scripts = " ".join(_source(each) for each in _scripts())
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_source(_style())};"
        " img-src data: 'self' file:; base-uri 'none'; form-action 'none'"
    )


def json_block(value: Any) -> str:
    """Return JSON for a data block of a page; nothing in it can end the block."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, escape in _JSON_ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _charts(
    report: Report,
    clock: journey.Clock,
    calls: list[journey.Predicted],
    sentence: str | None,
) -> list[charts.Chart]:
    drawn = []
    if any(log.attempts for log in report.logs):
        line = journey.timeline(report.logs, clock)
        drawn += [
            charts.calls_chart(line, journey.marks(report.changes.switches, clock)),
            charts.rate_chart(line),
        ]
        drawn.append(charts.stage_chart(report.outcomes))
    if sentence is not None:
        drawn.append(charts.prediction_chart(calls, sentence))
    return drawn


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


def _decision(event: dict[str, Any]) -> dict[str, str]:
    """Return an event's cells: what it says beyond its own columns goes into details."""
    details = {key: each for key, each in event.items() if key not in _EVENT_COLUMNS}
    return {
        "at": f"{parse_time(event['at']):%Y-%m-%d %H:%M:%S}",
        "batch": event["batch"],
        "event": event["event"],
        "reason": str(event.get("reason", event.get("error"))),
        "details": ", ".join(f"{key} {each}" for key, each in details.items() if each is not None),
    }
