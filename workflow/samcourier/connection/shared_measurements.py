"""The measurements of one service that the jobs of one host share."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from ..files.records import read_record, write_record
from .throughput import Estimate

#: Networks change: an older measurement is ignored; each transport has its own time.
TRUST_S = 600.0


class Measurements(Struct, frozen=True, forbid_unknown_fields=True):
    """The estimates of a service by transport, the transport used last, and when."""

    service_id: str
    used_unix_s: float
    last_used: str | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)


def measurements_path(dataset_dir: Path) -> Path:
    """Return the file that the jobs of this host share; other hosts may have other networks."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "host"
    return dataset_dir / "service" / f"measurements-{host}.json"


def read_measurements(path: Path, service_id: str) -> Measurements:
    """Return the fresh measurements of this service; none if the file has others or none."""
    found = read_record(path, Measurements)
    now_unix_s = time.time()

    def is_fresh(unix_s: float) -> bool:
        return 0 <= now_unix_s - unix_s <= TRUST_S

    if found is None or found.service_id != service_id or not is_fresh(found.used_unix_s):
        return Measurements(service_id, now_unix_s)
    fresh = {name: each for name, each in found.estimates.items() if is_fresh(each.measured_unix_s)}
    return replace(found, estimates=fresh)


def write_measurements(
    path: Path, service_id: str, last_used: str | None, estimates: dict[str, Estimate]
) -> None:
    """Write the measurements; the last job to end overwrites those of earlier ones.

    An estimate that a job read but did not change keeps its time.
    """
    write_record(path, Measurements(service_id, time.time(), last_used, estimates))
