"""Find the transport changes and their reasons in the connection journals."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results.connection_log import connection_events
from ..results.timestamps import parse_time

#: The report shows at most this number of events; ``logs/connection.jsonl`` has all of them.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True, order=True)
class Switch:
    """A switch to the transport ``to_transport`` at ``at_unix_s`` (Unix seconds)."""

    at_unix_s: float
    to_transport: str


@dataclass(frozen=True)
class Changes:
    """The connection events with a reason or an error, and all switches.

    ``count`` is the number of these events, ``first`` has the earliest of them. Routine events
    (opening, probing, health) are not stored, since there may be millions.
    """

    count: int = 0
    first: tuple[dict[str, Any], ...] = ()
    switches: tuple[Switch, ...] = ()


def read_changes(directory: Path) -> Changes:
    """Return the changes in the journals in ``directory``."""
    return changes_of(connection_events(directory, "reason", "error", "switch"))


def changes_of(events: Iterable[dict[str, Any]]) -> Changes:
    """Return the changes among ``events``, which may have any order and number.

    ``first`` has the earliest changes, at most :data:`MAX_SHOWN`.
    """
    count = 0
    switches: list[Switch] = []

    def events_with_reason() -> Iterator[dict[str, Any]]:
        nonlocal count
        for event in events:
            if event["event"] == "switch":
                to_transport = str(event.get("to_transport", ""))
                switches.append(Switch(parse_time(event["at"]).timestamp(), to_transport))
            if {"reason", "error"} & event.keys():
                count += 1
                yield event

    first = heapq.nsmallest(
        MAX_SHOWN, events_with_reason(), key=lambda event: parse_time(event["at"])
    )
    return Changes(count, tuple(first), tuple(sorted(switches)))
