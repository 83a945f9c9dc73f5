"""Facts -> lines, each ok, a warning or a failure with what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import assess_connection as way
from . import assess_workload as work
from .facts import Facts
from .lines import Line


def assess_facts(facts: Facts) -> list[Line]:
    """Return a line for everything that was looked at, in the order in which to mend it."""
    judges: tuple[Callable[[Facts], Iterable[Line]], ...] = (
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
    return [line for each in judges for line in each(facts)]


def has_failed(lines: Iterable[Line]) -> bool:
    """Tell whether the run would fail."""
    return any(line.status == "failure" for line in lines)
