"""The log tail of an application's replicas, each line shown once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...formatting import plain


class LogTail:
    """Shows what is new in the tails that a worker repeats with every status."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._shown: dict[tuple[str, str], list[str]] = {}

    def show(self, status: dict[str, Any]) -> None:
        """Show the lines that the last status did not have."""
        for deployment in (status.get("deployments") or {}).values():
            for replica, streams in (deployment.get("logs") or {}).items():
                # In place of the streams there may be a sentence why there are none.
                if not isinstance(streams, dict):
                    continue
                for stream in ("stdout", "stderr"):
                    lines = [str(line) for line in streams.get(stream) or ()]
                    self._show_new(str(replica), stream, lines)

    def _show_new(self, replica: str, stream: str, lines: list[str]) -> None:
        for line in lines[overlap(self._shown.get((replica, stream), []), lines) :]:
            if text := plain(line):
                self._say(f"  {replica}: {text}")
        self._shown[replica, stream] = lines


def overlap(before: list[str], after: list[str]) -> int:
    """Return how many lines at the end of ``before`` are those at the beginning of ``after``."""
    for count in range(min(len(before), len(after)), 0, -1):
        if before[-count:] == after[:count]:
            return count
    return 0
