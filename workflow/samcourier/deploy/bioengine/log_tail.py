"""The log tail of an application's replicas, each line logged once."""

from __future__ import annotations

import logging
from typing import Any

from ...formatting import plain

logger = logging.getLogger("samcourier.deploy")


class LogTail:
    """Logs the new lines in the log tails that a worker repeats with every status."""

    def __init__(self) -> None:
        self._logged: dict[tuple[str, str], list[str]] = {}

    def log_new(self, status: dict[str, Any]) -> None:
        """Log the lines of ``status`` that the previous status did not have."""
        for deployment in (status.get("deployments") or {}).values():
            for replica, streams in (deployment.get("logs") or {}).items():
                # Instead of the streams there may be a text that explains why there are none.
                if not isinstance(streams, dict):
                    continue
                for stream in ("stdout", "stderr"):
                    lines = [str(line) for line in streams.get(stream) or ()]
                    self._log_stream(str(replica), stream, lines)

    def _log_stream(self, replica: str, stream: str, lines: list[str]) -> None:
        for line in lines[overlap(self._logged.get((replica, stream), []), lines) :]:
            if text := plain(line):
                logger.info("  %s: %s", replica, text, extra={"replica": replica})
        self._logged[replica, stream] = lines


def overlap(before: list[str], after: list[str]) -> int:
    """Return how many lines at the end of ``before`` are those at the beginning of ``after``."""
    for count in range(min(len(before), len(after)), 0, -1):
        if before[-count:] == after[:count]:
            return count
    return 0
