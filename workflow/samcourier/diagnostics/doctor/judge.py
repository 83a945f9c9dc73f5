"""Facts -> lines, each ok, a warning or a failure with what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import judge_connection as way
from . import judge_workload as work
from .facts import Facts
from .lines import Line


def judge(facts: Facts) -> list[Line]:
    """Return a line for everything that was looked at, in the order in which to mend it."""
    judges: tuple[Callable[[Facts], Iterable[Line]], ...] = (
        way.judge_server,
        way.judge_token,
        way.judge_service,
        way.judge_transports,
        way.judge_udp,
        way.judge_ice_servers,
        way.judge_limits,
        work.judge_images,
        work.judge_disk,
        work.judge_versions,
        work.judge_model,
        work.judge_run_time,
    )
    return [line for each in judges for line in each(facts)]


def has_failed(lines: Iterable[Line]) -> bool:
    """Tell whether the run would fail."""
    return any(line.status == "failure" for line in lines)
