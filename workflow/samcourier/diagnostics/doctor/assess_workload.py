"""Judging the work: images, disk, versions, model, and how long it will take. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ...formatting import duration
from .facts import Facts, Unknown
from .lines import Line, Status
from .run_time import estimate_bytes, estimate_run

#: So many times what the run is expected to write should be free.
ROOM_FACTOR = 2.0


def assess_images(facts: Facts) -> Iterator[Line]:
    ahead, asked = facts.forecast, facts.asked
    if isinstance(ahead, Unknown):
        yield Line("images", "warning", f"not looked at: {ahead.why}")
        return
    done = asked.images - asked.images_left
    said = f"{asked.images_left:,} to segment" + (f", {done:,} have a mask" if done else "")
    if not ahead.unopened:
        yield Line("images", "ok", said)
        return
    yield Line(
        "images",
        "warning",
        f"{said}; of {ahead.looked_at} looked at {len(ahead.unopened)} cannot be opened:"
        f" {ahead.unopened[0]}",
        "the run names each and goes on with the others",
    )


def assess_disk(facts: Facts) -> Iterator[Line]:
    disk, ahead = facts.disk, facts.forecast
    if isinstance(disk, Unknown):
        yield Line("disk", "failure", disk.why, "is the file system of the results folder there?")
        return
    if not disk.is_writable:
        yield Line("disk", "failure", f"{disk.path} cannot be written", "whose folder is it?")
        return
    if isinstance(ahead, Unknown):
        yield Line("disk", "warning", f"{_gb(disk.free_bytes)} free; what is needed is not known")
        return
    needed = estimate_bytes(facts, ahead)
    said = f"{_gb(disk.free_bytes)} free, the run writes roughly {_gb(needed)}"
    yield Line(
        "disk",
        _room(disk.free_bytes, needed),
        said,
        "" if _room(disk.free_bytes, needed) == "ok" else "make room, or name another folder",
    )
    if disk.free_files is None:
        yield Line("files", "ok", f"{ahead}; this file system does not limit their number")
        return
    status = _room(disk.free_files, ahead.files)
    yield Line(
        "files",
        status,
        f"{ahead}; {disk.free_files:,} free (a quota of yours may be less)",
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
        named = ", ".join(f"{each.package} {each.installed} ({each.tested})" for each in untested)
        yield Line(
            "versions",
            "warning",
            f"others than those tested with, which stand in brackets: {named}",
            "if something fails, install requirements.lock",
        )
    if not broken and not untested:
        named = ", ".join(f"{each.package} {each.installed}" for each in versions)
        yield Line("versions", "ok", named)


def assess_model(facts: Facts) -> Iterator[Line]:
    description = facts.description
    if description.is_empty:
        return
    device = description.device
    if device is None:
        yield Line("model", "warning", "the service does not say what it runs on")
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
            f"on {device}, of which the service does not say what it is{weights}",
            "an older service: update it",
        )
    elif description.engine == "microsam":
        yield Line(
            "model",
            "warning",
            f"on {device}: an image takes up to half a minute there{weights}",
            "a GPU: service.gpu_memory_mb, or service.slurm.gres",
        )
    else:
        yield Line("model", "ok", f"on {device}, which suits {description.engine}{weights}")


def assess_run_time(facts: Facts) -> Iterator[Line]:
    if not facts.asked.images_left:
        yield Line("time", "ok", "nothing to segment: every image has its mask")
        return
    run = estimate_run(facts)
    if run is None:
        yield Line(
            "time",
            "warning",
            "not known: nothing was segmented yet by which to tell",
            "segment a few (images in the config), then ask again",
        )
        return
    yield Line("time", "ok", f"about {duration(run.seconds)}: {run.because}")


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
