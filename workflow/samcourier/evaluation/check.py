"""Check that a finished results folder is complete and consistent, from the folder alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files.strict_json import read_json
from ..masks.integrity import (
    MASK_SUFFIX,
    MASK_SUFFIXES,
    TILES_SUFFIX,
    provenance_if_complete,
    read_provenance,
    stat_mask,
)
from ..results.image_log import Attempt, ImageLog, read_image_log
from ..results.layout import (
    OUTPUT_FILES,
    find_mask,
    is_held,
    is_output_complete,
    mask_path,
    output_path,
    stat_output,
)
from ..results.manifest import Manifest, ManifestEntry, read_manifest
from ..results.run_record import read_run_record, run_record_path
from ..results.timestamps import parse_time

#: Parts may exceed the total by this, since clocks are read one after another.
TOLERANCE_S = 0.05
_LEFTOVER_SUFFIXES = (".part", ".old", ".tmp")


@dataclass(frozen=True, order=True)
class Finding:
    """One problem. ``where`` is a path relative to the results folder."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


def check_results(dataset_dir: Path, dropped: Collection[str] = ()) -> list[Finding]:
    """Return all problems of the results folder, sorted, [] without any.

    Every byte of every mask is read. A failed image whose log gives the reason is no problem.
    ``dropped`` are the images that the sheet no longer has: no manifest needs to list them.
    Raises FileNotFoundError if there is no such folder.
    """
    if not dataset_dir.is_dir():
        raise FileNotFoundError(f"{dataset_dir}: no such folder of results")
    logs = {path.stem: read_image_log(path) for path in _json_files(dataset_dir / "logs")}
    manifests = {path.stem: read_manifest(path) for path in _json_files(dataset_dir / "batches")}
    images = {
        path.name.removesuffix(suffix)
        for suffix in MASK_SUFFIXES.values()
        for path in (dataset_dir / "masks").glob(f"[!.]*{suffix}")
    }
    masks = {image: find_mask(dataset_dir, image) for image in images}
    found = {
        *_check_leftovers(dataset_dir, logs),
        *_check_second_masks(dataset_dir, masks),
        *_check_masks(masks, logs),
        *_check_logs(logs, masks),
        *_check_outputs(dataset_dir, logs),
        *_check_manifests(manifests, logs, masks, dropped),
        *_check_complete(dataset_dir, logs),
        *_check_run_record(dataset_dir),
    }
    return sorted(found)


def _json_files(folder: Path) -> Iterator[Path]:
    return folder.glob("[!.]*.json")


def _check_leftovers(dataset_dir: Path, logs: Mapping[str, ImageLog | None]) -> Iterator[Finding]:
    for folder, folders, files in os.walk(dataset_dir):
        for name in (*folders, *files):
            path = Path(folder, name)
            where = path.relative_to(dataset_dir).as_posix()
            if name.endswith(_LEFTOVER_SUFFIXES):
                yield Finding(where, "temporary file of a process that was stopped")
            elif name.endswith(TILES_SUFFIX):
                yield from _check_tiles(path, where, logs)
            elif path.suffix == ".lock" and path.is_file() and is_held(path):
                yield Finding(where, "locked by a process: a run is still running")
        # Other checks read the inside of masks, and a leftover folder is one finding.
        not_entered = (MASK_SUFFIX, TILES_SUFFIX, *_LEFTOVER_SUFFIXES)
        folders[:] = [name for name in folders if not name.endswith(not_entered)]


def _check_tiles(path: Path, where: str, logs: Mapping[str, ImageLog | None]) -> Iterator[Finding]:
    """Yield a finding for tiles whose mask is complete; other tiles are kept for the next run."""
    image = path.name.removeprefix(".").removesuffix(MASK_SUFFIX + TILES_SUFFIX)
    log = logs.get(image)
    if log is not None and log.status == "done":
        yield Finding(where, "tiles of a stopped run, no longer needed: the mask is complete")


def _check_second_masks(dataset_dir: Path, masks: Mapping[str, Path]) -> Iterator[Finding]:
    for image, path in masks.items():
        zipped = mask_path(dataset_dir, image, "zip")
        if zipped != path and zipped.exists():
            yield Finding(f"masks/{zipped.name}", f"a second mask beside {path.name}")


def _check_masks(
    masks: Mapping[str, Path], logs: Mapping[str, ImageLog | None]
) -> Iterator[Finding]:
    for image, path in masks.items():
        where = f"masks/{path.name}"
        log = logs.get(image)
        provenance = provenance_if_complete(path)
        if provenance is None:
            yield Finding(where, "damaged: files are missing or changed")
        elif log is not None and log.status == "done":
            key = provenance.get("key")
            if key != log.key:
                yield Finding(where, f"its key is {key}, but its log has {log.key}")
        if image not in logs:
            yield Finding(where, "no log lists it")
        elif log is not None and log.status == "failed":
            yield Finding(where, "from an earlier run: its log says failed")


def _check_logs(
    logs: Mapping[str, ImageLog | None], masks: Mapping[str, Path]
) -> Iterator[Finding]:
    for image, log in logs.items():
        where = f"logs/{image}.json"
        if log is None:
            yield Finding(where, "damaged: not a complete image log")
            continue
        if log.image != image:
            yield Finding(where, f"belongs to image {log.image!r}")
        if log.status == "done" and image not in masks:
            yield Finding(where, "done, but there is no mask")
        if log.status == "failed" and log.failure is None:
            yield Finding(where, "failed, but the log gives no reason")
        if log.status == "done" and log.failure is not None:
            yield Finding(where, f"done, but with the failure {log.failure.message!r}")
        for problem in _attempts_problems(log):
            yield Finding(where, problem)


def _check_outputs(dataset_dir: Path, logs: Mapping[str, ImageLog | None]) -> Iterator[Finding]:
    listed = set()
    for image, log in logs.items():
        if log is None:
            continue
        for name, record in log.outputs.items():
            if record.refused is not None:
                continue
            path = output_path(dataset_dir, image, name, record.path)
            listed.add(path)
            where = path if name not in OUTPUT_FILES else path.relative_to(dataset_dir)
            if stat_output(path) is None:
                yield Finding(where.as_posix(), f"{image}: its log lists it, but it is missing")
            elif not is_output_complete(path, record.sha256):
                yield Finding(where.as_posix(), f"{image}: changed since it was written")
            elif name not in OUTPUT_FILES:
                key = (read_provenance(path) or {}).get("key")
                if key != log.key:
                    yield Finding(where.as_posix(), f"its key is {key}, but its log has {log.key}")
    for folder, suffix in OUTPUT_FILES.values():
        for path in (dataset_dir / folder).glob(f"[!.]*{suffix}"):
            if path not in listed:
                yield Finding(path.relative_to(dataset_dir).as_posix(), "no log lists it")


def _attempts_problems(log: ImageLog) -> Iterator[str]:
    parts: dict[tuple[int | None, int | None, str], list[str]] = {}
    for attempt in log.attempts:
        call = attempt.plane, attempt.tile, attempt.method
        parts.setdefault(call, []).append(attempt.outcome)
    ok_count = sum(
        outcomes.count("ok") for call, outcomes in parts.items() if call[-1] == "segment_all"
    )
    call_count = log.planes * log.tiles - log.tiles_kept
    if log.status == "done" and not log.reused and ok_count != call_count:
        yield f"done with {ok_count} successful attempts, expected {call_count}"
    if any("ok" in outcomes[:-1] for outcomes in parts.values()):
        yield "an attempt follows a successful one"
    if log.attempts != tuple(sorted(log.attempts, key=lambda each: parse_time(each.started_at))):
        yield "its attempts are not sorted by time"
    for number, attempt in enumerate(log.attempts, start=1):
        for problem in _attempt_problems(attempt):
            yield f"attempt {number}: {problem}"
    if log.planes * log.tiles > 1:
        # Planes and tiles overlap in time, so the sum of the parts may exceed the total.
        return
    seconds = log.seconds
    calls_s = sum(attempt.seconds.total for attempt in log.attempts)
    own_s = (seconds.read, seconds.pack, seconds.unpack, seconds.write, seconds.outputs)
    yield from _seconds_problems((*own_s, calls_s), seconds.total)


def _attempt_problems(attempt: Attempt) -> Iterator[str]:
    if (attempt.outcome == "failed") != (attempt.error is not None):
        error = attempt.error.message if attempt.error else None
        yield f"{attempt.outcome}, with the error {error!r}"
    if attempt.bytes.up < 0 or attempt.bytes.down < 0:
        yield f"{attempt.bytes.up} bytes up, {attempt.bytes.down} down, expected 0 or more"
    seconds = attempt.seconds
    yield from _seconds_problems((seconds.send, seconds.service, seconds.receive), seconds.total)


def _seconds_problems(parts: tuple[float | None, ...], total_s: float) -> Iterator[str]:
    known_s = [part for part in parts if part is not None]
    if min(*known_s, total_s, 0.0) < 0:
        yield f"{min(*known_s, total_s):g} s, expected 0 or more"
    if sum(known_s) > total_s + TOLERANCE_S:
        yield f"its parts take {sum(known_s):.3f} s, but the total is {total_s:.3f} s"


def _check_manifests(
    manifests: Mapping[str, Manifest | None],
    logs: Mapping[str, ImageLog | None],
    masks: Mapping[str, Path],
    dropped: Collection[str],
) -> Iterator[Finding]:
    batch_of: dict[str, str] = {}
    for batch_id, manifest in sorted(manifests.items()):
        where = f"batches/{batch_id}.json"
        if manifest is None:
            yield Finding(where, "damaged: not a complete manifest")
            continue
        if manifest.batch != batch_id:
            yield Finding(where, f"belongs to batch {manifest.batch!r}")
        for image, entry in manifest.images.items():
            if image in batch_of:
                yield Finding(where, f"{image}: also in batch {batch_of[image]}")
            batch_of[image] = batch_id
            for problem in _entry_problems(entry, logs.get(image), masks.get(image)):
                yield Finding(where, f"{image}: {problem}")
    # Without manifests there is nothing to compare with.
    if manifests and None not in manifests.values():
        for image in logs.keys() - batch_of.keys() - set(dropped):
            yield Finding(f"logs/{image}.json", "no batch's manifest lists it")


def _entry_problems(entry: ManifestEntry, log: ImageLog | None, mask: Path | None) -> Iterator[str]:
    if entry.status == "not_asked":
        return
    if log is None:
        yield f"{entry.status}, but it has no log"
        return
    if entry.status != log.status:
        yield f"{entry.status}, but its log says {log.status}"
        return
    manifest_and_log = {
        "key": (entry.key, log.key),
        "object_count": (entry.object_count, log.object_count),
        "outputs": (entry.outputs, log.outputs),
        "failure_kind": (entry.failure_kind, log.failure.kind if log.failure else None),
    }
    for name, (recorded, logged) in manifest_and_log.items():
        if recorded != logged:
            yield f"{name} {recorded}, but its log says {logged}"
    if entry.status == "done" and mask is not None:
        found = stat_mask(mask)
        if found != (entry.mask_files, entry.mask_bytes):
            yield (
                f"mask of {entry.mask_files} files and {entry.mask_bytes} bytes,"
                f" but found (files, bytes) = {found}"
            )


def _check_complete(dataset_dir: Path, logs: Mapping[str, ImageLog | None]) -> Iterator[Finding]:
    path = dataset_dir / "complete.json"
    if not path.exists():
        return
    complete = read_json(path)
    keys = complete.get("keys") if isinstance(complete, dict) else None
    if not isinstance(keys, dict):
        yield Finding(path.name, "damaged: the field keys is missing")
        return
    for image, key in keys.items():
        log = logs.get(image)
        if log is None or log.status != "done" or log.key != key:
            yield Finding(path.name, f"{image}: listed with key {key}, but its log differs")


def _check_run_record(dataset_dir: Path) -> Iterator[Finding]:
    path = run_record_path(dataset_dir)
    if path.exists() and read_run_record(dataset_dir) is None:
        yield Finding(path.name, "damaged: not a complete record of a run")
