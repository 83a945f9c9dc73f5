"""Gather the facts of this machine: disk, installed versions, pace of earlier runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from heapq import nlargest
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ...results.image_log import read_image_log
from .facts import DiskFact, PaceFact, VersionFact

#: Packages whose versions have broken runs, or whose workarounds here fit one version only.
FRAGILE = (
    *("hypha-rpc", "aiortc", "websockets", "httpx", "msgpack", "numcodecs", "zarr", "snakemake"),
    *("hypha", "sqlmodel"),
)
#: The file is beside the workflow in a checkout; an installed package has none.
LOCK = Path(__file__).parents[4] / "requirements.lock"
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)")
#: Number of the newest logs from which the pace is computed.
LOGS_READ = 50


def disk_fact(dataset_dir: Path) -> DiskFact:
    """Return the free space of the results folder, which may not exist yet. Raises OSError."""
    folder = dataset_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return DiskFact(
        path=str(folder),
        is_writable=os.access(folder, os.W_OK | os.X_OK),
        free_bytes=found.f_bavail * found.f_frsize,
        free_files=found.f_favail if found.f_files else None,
    )


def version_facts(extras: Iterable[str]) -> tuple[VersionFact, ...]:
    """Return the versions of the fragile packages that this client with ``extras`` requires."""
    from packaging.requirements import Requirement

    tested = dict(_locked(LOCK))
    wanted = {}
    for line in requires("samcourier") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in ("", *extras)):
            wanted[requirement.name] = requirement.specifier
    facts = []
    for package in FRAGILE:
        installed = _installed(package)
        # An installed package that nothing requires does no harm.
        if package not in wanted and (installed is None or package in ("hypha", "sqlmodel")):
            continue
        specifier = wanted.get(package)
        is_met = installed is not None and (
            specifier is None or specifier.contains(installed, True)
        )
        facts.append(
            VersionFact(package, installed, str(specifier or ""), is_met, tested.get(package))
        )
    return tuple(facts)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _locked(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if found := _PINNED.match(line):
            yield found["name"], found["version"]


def pace_fact(dataset_dir: Path) -> PaceFact | None:
    """Return the pace of the newest images of the results folders beside this one, its own first.

    What waited in the service's queue is not counted.
    """
    others = [each for each in dataset_dir.parent.glob("*") if each != dataset_dir]
    for folder in (dataset_dir, *sorted(others, key=_mtime_s, reverse=True)):
        fact = _pace_of(folder)
        if fact is not None:
            return fact
    return None


def _mtime_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _pace_of(folder: Path) -> PaceFact | None:
    images, pixels, seconds = 0, 0, 0.0
    for path in nlargest(LOGS_READ, (folder / "logs").glob("*.json"), key=_mtime_s):
        log = read_image_log(path)
        if log is None or log.shape is None or log.axes is None or log.status != "done":
            continue
        took_s = [
            attempt.seconds.service
            for attempt in log.attempts
            if attempt.outcome == "ok" and attempt.seconds.service is not None
        ]
        if not took_s:
            continue
        images += 1
        pixels += _mask_pixels(log.shape, log.axes)
        seconds += sum(took_s)
    return PaceFact(images, pixels, seconds, f"{folder}") if seconds > 0 else None


def _mask_pixels(shape: tuple[int, ...], axes: str) -> int:
    count = 1
    for letter, size in zip(axes, shape, strict=False):
        count *= 1 if letter == "C" else size
    return count
