"""What changed the way of the pixels, out of all that the connection journals tell."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results.connection_log import connection_events
from ..results.timestamps import parse_time

#: The page stays readable; ``logs/connection.jsonl`` has every event.
MOST_SHOWN = 200


@dataclass(frozen=True, slots=True, order=True)
class Switch:
    """A change of transport: when, in Unix seconds, and to which."""

    at_unix_s: float
    to_transport: str


@dataclass(frozen=True)
class Changes:
    """The events that state a reason or an error: how many, the first of them, and all switches.

    Opening, probing and health are routine, and no more of them is kept: there may be millions.
    """

    count: int = 0
    first: tuple[dict[str, Any], ...] = ()
    switches: tuple[Switch, ...] = ()


def read_changes(directory: Path) -> Changes:
    """Return the changes that the journals in ``directory`` tell of."""
    return changes_of(connection_events(directory, "reason", "error", "switch"))


def changes_of(events: Iterable[dict[str, Any]]) -> Changes:
    """Return the changes among ``events``, which may come in any order; each is held but shortly.

    The first are those by time, at most :data:`MOST_SHOWN`.
    """
    count = 0
    switches: list[Switch] = []

    def stated() -> Iterator[dict[str, Any]]:
        nonlocal count
        for event in events:
            if event["event"] == "switch":
                to_transport = str(event.get("to_transport", ""))
                switches.append(Switch(parse_time(event["at"]).timestamp(), to_transport))
            if {"reason", "error"} & event.keys():
                count += 1
                yield event

    first = heapq.nsmallest(MOST_SHOWN, stated(), key=lambda event: parse_time(event["at"]))
    return Changes(count, tuple(first), tuple(sorted(switches)))
