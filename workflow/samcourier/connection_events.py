"""What the connection journals of a run's batches tell, together.

Every open transport of every batch tells every few seconds how it is: a long run leaves millions of
events, more than a login node has memory for. So they are taken one at a time.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from .files.atomic import write_atomically
from .files.records import parse_json
from .journal import parse_time

#: What a merge holds of all journals together, and the least that it reads of one at a time.
_READ_AHEAD_BYTES = 64 << 20
_LEAST_BLOCK_BYTES = 4 << 10


def connection_events(directory: Path, *words: str) -> Iterator[dict[str, Any]]:
    """Yield the events of every ``<batch>.jsonl`` in ``directory``, one journal after another.

    Each holds ``at``, ``event``, ``batch`` and its details; half-written lines are left out. With
    ``words`` only those that have one of these as a key or a value, which is much faster.
    """
    sought = [json.dumps(word).encode() for word in words]
    for path in _journals(directory):
        with path.open("rb") as stream:
            lines = (line for line in stream if not sought or any(word in line for word in sought))
            for _, event in _events(path, lines):
                yield event


def merge_journals(directory: Path, out: Path) -> None:
    """Write the events of all journals in ``directory`` to ``out``, by time, a JSON line each.

    A journal is in the order of time already. Where its clock was set back, or the batch was run
    again by a machine whose clock is behind, its own events stay in the order of writing.
    """
    journals = _journals(directory)
    block_bytes = max(_READ_AHEAD_BYTES // max(len(journals), 1), _LEAST_BLOCK_BYTES)
    timed = (_events(path, _lines(path, block_bytes)) for path in journals)
    merged = heapq.merge(*timed, key=itemgetter(0))
    write_atomically(out, (f"{json.dumps(event, allow_nan=False)}\n" for _, event in merged))


def _journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


def _lines(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a journal, of which about ``block_bytes`` are held."""
    at = 0
    while True:
        # Opened for each block: a run has thousands of batches, and a process may often have no
        # more than 1024 files open at once.
        with path.open("rb") as stream:
            stream.seek(at)
            lines = stream.readlines(block_bytes)
            at = stream.tell()
        if not lines:
            return
        yield from lines


def _events(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[datetime, dict[str, Any]]]:
    for line in lines:
        event = parse_json(line)
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            continue
        try:
            moment = parse_time(event["at"])
        except (KeyError, TypeError, ValueError):
            continue
        yield moment, event | {"batch": path.stem}
