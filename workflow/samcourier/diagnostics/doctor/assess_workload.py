"""Assess the workload: images, disk, versions, model and duration. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator

from ...formatting import duration
from .facts import Facts, Unknown
from .lines import Line, Status
from .run_time import estimate_bytes, estimate_run

#: Free space below this multiple of the expected output gives a warning.
ROOM_FACTOR = 2.0


def assess_images(facts: Facts) -> Iterator[Line]:
    forecast, request = facts.forecast, facts.request
    if isinstance(forecast, Unknown):
        yield Line("images", "warning", f"could not be checked: {forecast.why}")
        return
    done = request.images - request.images_left
    message = f"{request.images_left:,} to segment" + (f", {done:,} have a mask" if done else "")
    if not forecast.unopened:
        yield Line("images", "ok", message)
        return
    yield Line(
        "images",
        "warning",
        f"{message}; {len(forecast.unopened)} of {forecast.sampled_count} checked cannot be opened:"
        f" {forecast.unopened[0]}",
        "the run lists each of them and continues with the others",
    )


def assess_disk(facts: Facts) -> Iterator[Line]:
    disk, forecast = facts.disk, facts.forecast
    if isinstance(disk, Unknown):
        yield Line("disk", "failure", disk.why, "check the file system of the results folder")
        return
    if not disk.is_writable:
        yield Line("disk", "failure", f"{disk.path} cannot be written", "check the folder's owner")
        return
    if isinstance(forecast, Unknown):
        yield Line("disk", "warning", f"{_gb(disk.free_bytes)} free; the space needed is unknown")
        return
    needed = estimate_bytes(facts, forecast)
    message = f"{_gb(disk.free_bytes)} free, the run writes about {_gb(needed)}"
    yield Line(
        "disk",
        _room(disk.free_bytes, needed),
        message,
        "" if _room(disk.free_bytes, needed) == "ok" else "free some space, or use another folder",
    )
    if disk.free_files is None:
        yield Line("files", "ok", f"{forecast}; this file system does not limit their number")
        return
    status = _room(disk.free_files, forecast.files)
    yield Line(
        "files",
        status,
        f"{forecast}; {disk.free_files:,} free (your quota may be smaller)",
        "" if status == "ok" else "set mask_container: zip",
    )


def _room(free: float, needed: float) -> Status:
    if free < needed:
        return "failure"
    return "warning" if free < ROOM_FACTOR * needed else "ok"


def assess_versions(facts: Facts) -> Iterator[Line]:
    versions = facts.versions
    if isinstance(versions, Unknown):
        yield Line("versions", "warning", versions.why)
        return
    broken = [each for each in versions if not each.is_met]
    untested = [
        each for each in versions if each.is_met and each.tested not in (None, each.installed)
    ]
    for each in broken:
        yield Line(
            "versions",
            "failure",
            f"{each.package} {each.installed or 'is not installed'}, expected {each.required}",
            f"pip install '{each.package}{each.required}'",
        )
    if untested:
        listed = ", ".join(f"{each.package} {each.installed} ({each.tested})" for each in untested)
        yield Line(
            "versions",
            "warning",
            f"not the tested versions, which are in brackets: {listed}",
            "if something fails, install the versions of requirements.lock",
        )
    if not broken and not untested:
        listed = ", ".join(f"{each.package} {each.installed}" for each in versions)
        yield Line("versions", "ok", listed)


def assess_model(facts: Facts) -> Iterator[Line]:
    description = facts.description
    if description.is_empty:
        return
    device = description.device
    if device is None:
        yield Line("model", "warning", "the service does not report its device")
        return
    gpu, cache = description.gpu, description.model_cache
    weights = f"; weights from {cache}" if cache else ""
    if gpu is not None:
        memory = f", {gpu.memory_bytes / 1e9:.0f} GB"
        yield Line("model", "ok", f"on {gpu.name}{memory} ({device}){weights}")
    elif str(device).startswith("cuda"):
        yield Line(
            "model",
            "warning",
            f"on {device}; the service does not report which GPU it is{weights}",
            "the service is an older version: update it",
        )
    elif description.slow_without_gpu:
        yield Line(
            "model",
            "warning",
            f"on {device}, where {description.engine} takes many times as long as on a GPU"
            f"{weights}",
            "use a GPU: set service.gpu_memory_mb or service.slurm.gres",
        )
    else:
        yield Line("model", "ok", f"on {device}, which suits {description.engine}{weights}")


def assess_run_time(facts: Facts) -> Iterator[Line]:
    if not facts.request.images_left:
        yield Line("time", "ok", "nothing to segment: every image has its mask")
        return
    run = estimate_run(facts)
    if run is None:
        yield Line(
            "time",
            "warning",
            "unknown: no image was segmented yet from which to estimate it",
            "segment a few images (config key images), then run the doctor again",
        )
        return
    yield Line("time", "ok", f"about {duration(run.seconds)}: {run.basis}")


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
