"""Write the connection journal of a batch; read and merge the journals of a run.

Every open transport of every batch records its state every few seconds. A long run writes millions
of events, more than fit into a login node's memory, so they are read one at a time.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from ..files.atomic import write_atomically
from ..files.strict_json import parse_json
from .timestamps import parse_time, utc_now

#: Memory of a merge for all journals together, and the smallest block that it reads of one.
_READ_AHEAD_BYTES = 64 << 20
_LEAST_BLOCK_BYTES = 4 << 10


def connection_events(directory: Path, *words: str) -> Iterator[dict[str, Any]]:
    """Yield the events of every ``<batch>.jsonl`` in ``directory``, one journal after another.

    Each event has ``at``, ``event``, ``batch`` and its details; incomplete lines are skipped. With
    ``words``, only events with one of them as a key or a value are yielded, which is much faster.
    """
    quoted = [json.dumps(word).encode() for word in words]
    for path in _journals(directory):
        with path.open("rb") as stream:
            lines = (line for line in stream if not quoted or any(word in line for word in quoted))
            for _, event in _events(path, lines):
                yield event


def merge_journals(directory: Path, out: Path) -> None:
    """Write the events of all journals in ``directory`` to ``out``, by time, one JSON line each.

    Each journal is already in the order of time. If its clock was set back, or a machine whose
    clock is behind ran the batch again, the journal's events keep the order of writing.
    """
    journals = _journals(directory)
    block_bytes = max(_READ_AHEAD_BYTES // max(len(journals), 1), _LEAST_BLOCK_BYTES)
    timed = (_events(path, _lines(path, block_bytes)) for path in journals)
    merged = heapq.merge(*timed, key=itemgetter(0))
    write_atomically(out, (f"{json.dumps(event, allow_nan=False)}\n" for _, event in merged))


def _journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


def _lines(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a journal; about ``block_bytes`` of them are in memory."""
    offset = 0
    while True:
        # The file is opened for each block: a run has thousands of batches, and a process may often
        # have no more than 1024 files open at once.
        with path.open("rb") as stream:
            stream.seek(offset)
            lines = stream.readlines(block_bytes)
            offset = stream.tell()
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


class ConnectionJournal:
    """The connection events of one batch as JSON lines, written when they happen.

    An existing journal is continued, so a batch that runs again keeps its history.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: closing must not fail again on bytes that a full disk refused.
        self._stream = path.open("a+b", buffering=0)
        #: A killed process leaves half a line, and so does a disk that fills up within a line.
        self._is_line_torn = self._ends_torn()

    def record(self, event: str, **details: Any) -> None:
        """Append one line: the time, the event's name and its details (plain JSON values).

        Raises ValueError for NaN or infinity, TypeError for anything that is not JSON.
        """
        text = json.dumps({"at": utc_now(), "event": event} | details, allow_nan=False)
        # A new line starts after half a line, else both events would be lost.
        line = (f"\n{text}\n" if self._is_line_torn else f"{text}\n").encode()
        # A full disk fails the image that cannot be written; the connection still closes normally.
        with contextlib.suppress(OSError):
            if written := self._stream.write(line):
                self._is_line_torn = written < len(line)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ends_torn(self) -> bool:
        if self._stream.seek(0, os.SEEK_END) == 0:
            return False
        self._stream.seek(-1, os.SEEK_END)
        return self._stream.read(1) != b"\n"
