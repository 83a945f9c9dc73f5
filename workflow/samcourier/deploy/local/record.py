"""The record of a running local service: where it is and which process it is.

msgspec and psutil only, so that asking costs little.
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
    """What the service said when it was ready. The token is kept apart, in a 0600 file."""

    process: str
    server_url: str
    workspace: str
    service_id: str
    rtc_service_id: str
    engine: str
    engine_options: dict[str, Any] = field(default_factory=dict)

    def serves(self, engine: str, engine_options: dict[str, Any]) -> bool:
        """Tell whether this service is alive and has the engine that is asked for."""
        same = self.engine == engine and self.engine_options == engine_options
        return same and is_running(self.process)


def write_local_record(directory: Path, record: LocalRecord) -> None:
    """Publish the record; readers see the old one or this one."""
    write_private(directory / RECORD_NAME, json.dumps(asdict(record), indent=1))


def read_local_record(directory: Path) -> LocalRecord | None:
    """Return the record, None when there is none or it cannot be read."""
    return records.read_record(directory / RECORD_NAME, LocalRecord)
