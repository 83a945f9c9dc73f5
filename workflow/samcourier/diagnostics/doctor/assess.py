"""Assess the facts: one line each, ok, a warning or a failure with advice. Pure functions.

A new check takes three steps: its value in facts.py, its measurement in gather.py, its line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import assess_connection as way
from . import assess_workload as work
from .facts import Facts
from .lines import Line


def assess_facts(facts: Facts) -> list[Line]:
    """Return a line for each check, in the order in which problems should be solved."""
    assessors: tuple[Callable[[Facts], Iterable[Line]], ...] = (
        way.assess_server,
        way.assess_token,
        way.assess_service,
        way.assess_transports,
        way.assess_udp,
        way.assess_ice_servers,
        way.assess_limits,
        work.assess_images,
        work.assess_disk,
        work.assess_versions,
        work.assess_model,
        work.assess_run_time,
    )
    return [line for assess in assessors for line in assess(facts)]


def has_failed(lines: Iterable[Line]) -> bool:
    """Return whether a line is a failure, so that the run would fail."""
    return any(line.status == "failure" for line in lines)
