"""What the jobs of one host have measured of one service, so that each need not begin anew."""

from __future__ import annotations

import platform
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..records import decode, read_json, write_json
from .estimate import Estimate

#: Networks change: what is older counts as not measured.
TRUST_S = 600.0


@dataclass(frozen=True)
class Measurements:
    """Estimates by transport, the one last used, the service they are of, and when (Unix s)."""

    service_id: str
    measured_at_unix_s: float
    last_used: str | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)


def measurements_path(dataset_dir: Path) -> Path:
    """Return the file that the jobs of this host share; another host has another network."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "host"
    return dataset_dir / "service" / f"measurements-{host}.json"


def read_measurements(path: Path, service_id: str) -> Measurements:
    """Return what is known of this service and fresh enough to be trusted; else nothing known."""
    found = decode(Measurements, read_json(path))
    now_unix_s = time.time()
    if (
        found is None
        or found.service_id != service_id
        or not 0 <= now_unix_s - found.measured_at_unix_s <= TRUST_S
    ):
        return Measurements(service_id, now_unix_s)
    return found


def write_measurements(
    path: Path, service_id: str, last_used: str | None, estimates: dict[str, Estimate]
) -> None:
    """Keep what was measured; the last job to end has the last word."""
    write_json(path, asdict(Measurements(service_id, time.time(), last_used, estimates)))
