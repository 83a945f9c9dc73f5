"""The record of a running local service: its address and its process.

This module imports msgspec and psutil only, so that reading the record is fast.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict

from ...files import records
from ...files.atomic import write_private
from ...processes import is_running

RECORD_NAME = "local.json"
TOKEN_NAME = "token"
LOG_NAME = "service.log"
OWNERS_NAME = "owners"
SCRATCH_NAME = "scratch"


class LocalRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The address of the service, written when it was ready. The token is in its own 0600 file."""

    process: str
    server_url: str
    workspace: str
    service_id: str
    rtc_service_id: str
    engine: str
    engine_options: dict[str, Any] = field(default_factory=dict)

    def serves(self, engine: str, engine_options: dict[str, Any]) -> bool:
        """Tell whether this service runs and has this engine with these options."""
        same = self.engine == engine and self.engine_options == engine_options
        return same and is_running(self.process)


def write_local_record(directory: Path, record: LocalRecord) -> None:
    """Write the record atomically: readers see the old one or this one."""
    write_private(directory / RECORD_NAME, json.dumps(asdict(record), indent=1))


def read_local_record(directory: Path) -> LocalRecord | None:
    """Return the record, None when there is none or it cannot be read."""
    return records.read_record(directory / RECORD_NAME, LocalRecord)
