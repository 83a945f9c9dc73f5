"""What a look at the results folder tells without opening a mask. Standard library only.

The Snakefile asks :func:`batches_to_redo` at parse time about every mask of the dataset, so
nothing heavy may be imported here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from .dataset import Batch, ImageRow, asked_rows
from .zarr_names import ATTRIBUTES_FILES, METADATA_FILES
from .zipped import NO_DIGEST, is_zip_whole, read_entry

MaskContainer = Literal["folder", "zip"]
MASK_SUFFIX = ".ome.zarr"
#: Ends the name of the hidden folder that keeps a mask's finished tiles until it is whole.
TILES_SUFFIX = ".tiles"
MASK_SUFFIXES: dict[MaskContainer, str] = {"folder": MASK_SUFFIX, "zip": f"{MASK_SUFFIX}.zip"}
_RECORDED_DIGEST = re.compile(rb'("content_sha256": ")[0-9a-f]{64}"')


def mask_path(dataset_dir: Path, image: str, container: MaskContainer = "folder") -> Path:
    """Return where the mask of ``image`` is written in this form: a folder or a zip of it."""
    return dataset_dir / "masks" / f"{image}{MASK_SUFFIXES[container]}"


def find_mask(dataset_dir: Path, image: str) -> Path:
    """Return where the mask of ``image`` lies: the folder, or the zip where only that is there."""
    folder, zipped = (mask_path(dataset_dir, image, each) for each in MASK_SUFFIXES)
    return zipped if zipped.is_file() and not folder.exists() else folder


def is_zip(mask: Path) -> bool:
    """Tell whether a mask of this name is one file."""
    return mask.name.endswith(MASK_SUFFIXES["zip"])


#: What can be made of a mask in the results folder: its folder and suffix.
OUTPUT_FILES = {
    "tiff": ("tiff", ".ome.tif"),
    "objects_csv": ("objects", ".csv"),
    "objects_parquet": ("objects", ".parquet"),
    "polygons": ("polygons", ".geojson"),
    "preview": ("previews", ".png"),
}
#: All that ``outputs`` of the config may ask for.
OUTPUTS = (*OUTPUT_FILES, "input_labels")


def output_path(dataset_dir: Path, image: str, name: str, recorded: str | None = None) -> Path:
    """Return where an output of ``image`` lies: by its name, or where its record says."""
    if name not in OUTPUT_FILES:
        return Path(recorded or os.devnull)
    folder, suffix = OUTPUT_FILES[name]
    return dataset_dir / folder / f"{image}{suffix}"


def stat_output(path: Path) -> tuple[int, int] | None:
    """Return (file count, total bytes) of an output, None when there is none."""
    if path.is_dir():
        return stat_mask(path)
    try:
        return 1, path.stat().st_size
    except OSError:
        return None


def output_sha256(path: Path) -> str:
    """Return the digest of an output, a file or a label group. Raises OSError."""
    if path.is_dir():
        return content_sha256(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_output_whole(path: Path, sha256: str | None) -> bool:
    """Tell whether an output is there as it was written."""
    try:
        return output_sha256(path) == sha256
    except OSError:
        return False


def manifest_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return where the manifest of a batch lies."""
    return dataset_dir / "batches" / f"{batch_id}.json"


def log_path(dataset_dir: Path, image: str) -> Path:
    """Return where the log of ``image`` lies."""
    return dataset_dir / "logs" / f"{image}.json"


def connection_journal_path(dataset_dir: Path, batch_id: str) -> Path:
    """Return where a batch writes what its connection manager saw."""
    return dataset_dir / "logs" / "connection" / f"{batch_id}.jsonl"


def is_held(lock: Path) -> bool:
    """Tell whether a process of this host holds the lock; one that does not exist is free."""
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def zarr_files(directory: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yield the chunk and metadata files below ``directory``, in no particular order.

    Other files are skipped: a file browser's or a network file system's leftovers do not make a
    mask unsound. Raises OSError when a directory cannot be listed.
    """
    pending: list[str] = [os.fspath(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.isdigit() or entry.name in METADATA_FILES:
                    yield entry


def stat_mask(path: Path) -> tuple[int, int] | None:
    """Return (file count, total bytes) over the zarr files of a mask, None when there is none."""
    file_count = total_bytes = 0
    try:
        if is_zip(path):
            return 1, path.stat().st_size
        for entry in zarr_files(path):
            file_count += 1
            total_bytes += entry.stat().st_size
    except OSError:
        return None
    return file_count, total_bytes


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return the attribute ``samcourier`` of a mask, None when absent or unreadable."""
    try:
        if is_zip(path):
            name, content = read_entry(path, ATTRIBUTES_FILES)
        else:
            root = _root_attributes(path)
            name, content = root.name, root.read_bytes()
        attributes = json.loads(content)
        if name == "zarr.json":
            attributes = attributes["attributes"]
        provenance = attributes["samcourier"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return provenance if isinstance(provenance, dict) else None


def is_whole(path: Path) -> bool:
    """Tell whether every file of the mask is there, of the recorded total size and sha256."""
    return whole_provenance(path) is not None


def whole_provenance(path: Path) -> dict[str, Any] | None:
    """Return what a mask says of itself when it :func:`is_whole`, None when it is not."""
    if is_zip(path):
        return (read_provenance(path) or {}) if is_zip_whole(path) else None
    recorded = read_provenance(path)
    if recorded is None:
        return None
    if stat_mask(path) != (recorded.get("file_count"), recorded.get("total_bytes")):
        return None
    try:
        is_same = content_sha256(path) == recorded.get("content_sha256")
    except OSError:
        return None
    return recorded if is_same else None


def content_sha256(store: Path) -> str:
    """Return the digest of a mask's store, see :class:`samcourier.masks.MaskFacts`."""
    digest = hashlib.sha256()
    root = _root_attributes(store).name
    # Of many masks each has many files: plain names are several times as fast as paths.
    above = len(os.path.join(store, ""))
    names = [entry.path[above:] for entry in zarr_files(store)]
    for name in sorted(names, key=lambda name: name.split(os.sep)):
        with open(os.path.join(store, name), "rb") as stream:
            content = stream.read()
        if name == root:
            content = _RECORDED_DIGEST.sub(rb"\g<1>" + NO_DIGEST.encode() + b'"', content)
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _root_attributes(store: Path) -> Path:
    for name in ATTRIBUTES_FILES:
        if (store / name).is_file():
            return store / name
    raise FileNotFoundError(errno.ENOENT, "no root attributes", str(store))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a batch's manifest, None when it is absent, damaged or no manifest."""
    try:
        manifest = json.loads(path.read_bytes())
        images = manifest["images"]
        sound = isinstance(images, dict) and all(isinstance(e, dict) for e in images.values())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return manifest if sound else None


def has_failures(dataset_dir: Path, batch_id: str) -> bool:
    """Tell whether the batch's manifest lists a failed image or a refused output."""
    manifest = read_manifest(manifest_path(dataset_dir, batch_id))
    return manifest is not None and any(map(_has_failed, manifest["images"].values()))


def _has_failed(entry: dict[str, Any]) -> bool:
    records = entry.get("outputs")
    return entry.get("status") == "failed" or (
        isinstance(records, dict)
        and any(isinstance(each, dict) and each.get("refused") for each in records.values())
    )


def remove_stale_manifests(dataset_dir: Path, batches: Iterable[Batch]) -> None:
    """Delete the manifests of batches that the sheet, cut anew, no longer has.

    Masks and logs stay: each image's are its own, whichever batch it was in.
    """
    current = {manifest_path(dataset_dir, batch.batch_id) for batch in batches}
    for path in (dataset_dir / "batches").glob("*.json"):
        if path not in current:
            path.unlink(missing_ok=True)


def batches_to_redo(
    dataset_dir: Path,
    batches: Iterable[Batch],
    only: Collection[str] | None = None,
    outputs: Collection[str] = (),
    made_for: Callable[[Batch], str] | None = None,
) -> set[str]:
    """Return the ids of batches whose manifest exists and no longer tells the truth.

    That is a manifest that is damaged, is not of what ``made_for`` says of the batch, lists other
    images than it has now, or has an image that is done with a missing or damaged mask or one of
    ``outputs``, failed by more than its own fault, or was not asked for. ``only`` limits the look
    at single images to these.
    """
    to_redo = set()
    for batch in batches:
        path = manifest_path(dataset_dir, batch.batch_id)
        if not path.exists():
            continue
        manifest = read_manifest(path)
        if (
            manifest is None
            # What Snakemake knows of it may have stayed behind when the folder was moved.
            or (made_for is not None and manifest.get("made_for") != made_for(batch))
            or not _is_settled(dataset_dir, batch, manifest, only, outputs)
        ):
            to_redo.add(batch.batch_id)
    return to_redo


def images_left(
    dataset_dir: Path,
    batches: Iterable[Batch],
    only: Collection[str] | None = None,
    made_for: Callable[[Batch], str] | None = None,
) -> list[str]:
    """Return the ids of images to segment: of those in ``only``, those without their mask.

    An image has it that a manifest calls done and whose mask is there as the manifest tells. A
    manifest that is not of what ``made_for`` says of its batch counts for nothing.
    """
    batches = list(batches)
    entries: dict[str, dict[str, Any]] = {}
    for batch in batches:
        manifest = read_manifest(manifest_path(dataset_dir, batch.batch_id))
        if manifest is not None and (
            made_for is None or manifest.get("made_for") == made_for(batch)
        ):
            entries |= manifest["images"]
    return [
        row.image
        for batch in batches
        for row in asked_rows(batch.rows, only)
        if not _has_mask(dataset_dir, row.image, entries.get(row.image, {}))
    ]


def _has_mask(dataset_dir: Path, image: str, entry: dict[str, Any]) -> bool:
    if entry.get("status") != "done":
        return False
    found = stat_mask(find_mask(dataset_dir, image))
    return found == (entry.get("mask_files"), entry.get("mask_bytes"))


def _is_settled(
    dataset_dir: Path,
    batch: Batch,
    manifest: dict[str, Any],
    only: Collection[str] | None,
    outputs: Collection[str],
) -> bool:
    images = manifest["images"]
    if images.keys() != {row.image for row in batch.rows}:
        return False
    return all(
        _is_image_settled(dataset_dir, row, images[row.image], outputs)
        for row in asked_rows(batch.rows, only)
    )


def _is_image_settled(
    dataset_dir: Path, row: ImageRow, entry: dict[str, Any], outputs: Collection[str]
) -> bool:
    image, kind = row.image, entry.get("failure_kind")
    if entry.get("status") == "failed":
        return kind == "image" or (kind == "missing" and not _are_files_there(row))
    if not _has_mask(dataset_dir, image, entry):
        return False
    records = entry.get("outputs")
    return not outputs or (
        isinstance(records, dict)
        and all(_is_output_settled(dataset_dir, image, name, records.get(name)) for name in outputs)
    )


def _are_files_there(row: ImageRow) -> bool:
    return all(path.exists() for path in (row.path, row.foreground) if path is not None)


def _is_output_settled(dataset_dir: Path, image: str, name: str, record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    if record.get("refused") is not None:
        return True
    path = output_path(dataset_dir, image, name, record.get("path"))
    return stat_output(path) == (record.get("files"), record.get("bytes"))
