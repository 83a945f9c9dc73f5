"""Find images in folders, patterns and OME-Zarr plates as rows of a sample sheet.

The images are not opened. An id depends only on the name of its file, so that new files do not
change existing ids.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..files.zarr_names import ATTRIBUTES_FILES, METADATA_FILES
from ..images.readers.built_in import BUILT_IN
from ..images.readers.reader import installed_readers
from .sheet import SAFE_ID, ImageRow

#: Suffixes of the built-in readers. A folder is searched for these and those of the installed
#: readers; a pattern selects all files that it matches.
IMAGE_SUFFIXES = tuple(suffix for reader in BUILT_IN for suffix in reader.suffixes)
#: Replaces "/" in an id.
_FOLDER_SEPARATOR = "__"
_READABLE_CHARACTERS = 150


@dataclass(frozen=True)
class Found:
    """The rows of the images, in a stable order, and the files that do not have an image's name."""

    rows: list[ImageRow]
    skipped: list[Path]


@dataclass(frozen=True)
class _Hit:
    """A file that was found; ``name`` is the part of the path that becomes the id."""

    path: str
    name: str
    is_image: bool = True


def is_sheet(text: str) -> bool:
    """Return True if ``text`` names a sample sheet, False for a folder, pattern or image."""
    return not (os.path.isdir(text) or _is_pattern(text) or _has_image_suffix(text))


def _has_image_suffix(name: str) -> bool:
    """Return True if a built-in or installed reader has the suffix of this name."""
    return name.lower().endswith(IMAGE_SUFFIXES) or name.lower().endswith(_installed_suffixes())


def _is_image_folder(path: str) -> bool:
    """Return True if a folder that is not a Zarr is an image for an installed reader."""
    return any(each.recognises_folder(Path(path)) for each in installed_readers().readers)


def _installed_suffixes() -> tuple[str, ...]:
    return tuple(suffix for each in installed_readers().readers for suffix in each.suffixes)


def find_images(inputs: Sequence[str], known: Sequence[ImageRow] = ()) -> Found:
    """Return one row for each image in ``inputs``: folders, patterns, plates, files.

    ``known`` are the rows of an earlier search: their images keep order and id, and new ones
    follow. A folder is searched recursively, without hidden files and label images. A plate has
    a row for each field of a well, e.g. A_1_0. Image files are not opened. A folder that cannot be
    listed also has a row, so that the run reports it. Raises :class:`InputError` when there is no
    image.
    """
    hits: dict[str, _Hit] = {}
    for text in inputs:
        found = list(_hits(text))
        if not any(hit.is_image for hit in found):
            raise InputError(
                f"{text}: no image found, expected files ending in"
                f" {', '.join((*IMAGE_SUFFIXES, *_installed_suffixes()))},"
                " or OME-Zarr"
            )
        for hit in found:
            hits.setdefault(hit.path, hit)
    images = {path: hit for path, hit in hits.items() if hit.is_image}
    rows = [row for row in known if str(row.path) in images]
    ids = {row.image.casefold() for row in rows}
    known_paths = {str(row.path) for row in rows}
    for path, hit in images.items():
        if path in known_paths:
            continue
        image = make_id(hit.name)
        if image.casefold() in ids:
            image = _with_digest(image, path)
        if image.casefold() in ids:
            raise InputError(f"{path}: the id {image!r} is already taken, expected each id once")
        ids.add(image.casefold())
        rows.append(ImageRow(image, Path(path)))
    return Found(rows, [Path(hit.path) for hit in hits.values() if not hit.is_image])


def make_id(name: str) -> str:
    """Return the id for a file's name. Different names have different ids, ignoring case.

    ``.tif`` is dropped and "/" becomes "__". A digest is appended if the result would not be a safe
    id or could also come from another name.
    """
    stem = re.sub(r"\.tif$", "", name, flags=re.IGNORECASE)
    parts = stem.split("/")
    image = _FOLDER_SEPARATOR.join(parts)
    is_plain = (
        len(image) <= _READABLE_CHARACTERS
        and SAFE_ID.fullmatch(image) is not None
        and not any("__" in part for part in parts)
        and (len(parts) == 1 or not any(part != part.strip("_") for part in parts))
        and not (stem != name and stem.lower().endswith(IMAGE_SUFFIXES))
    )
    return image if is_plain else _with_digest(image, name)


def plate_images(path: str, plate: Any) -> Iterator[tuple[str, str]]:
    """Yield the path and name of each image of a plate, e.g. plate.zarr/A/1/0 and A_1_0.

    ``plate`` is the entry ``plate`` of the folder's attributes. A well without a list of fields is
    yielded as one image.
    """
    for well_path in _paths_inside(plate, "wells"):
        well = (zarr_attributes(f"{path}/{well_path}") or {}).get("well")
        fields = list(_paths_inside(well, "images"))
        for inside in [f"{well_path}/{field}" for field in fields] or [well_path]:
            yield f"{path}/{inside}", inside.replace("/", "_")


def _paths_inside(attributes: Any, name: str) -> Iterator[str]:
    """Yield the paths in the list ``name`` of unchecked attributes that stay inside the folder."""
    listed = attributes.get(name) if isinstance(attributes, dict) else None
    for each in listed if isinstance(listed, list) else ():
        path = str(each.get("path", "")) if isinstance(each, dict) else ""
        if _is_inside(path):
            yield path


def zarr_attributes(path: str) -> dict[str, Any] | None:
    """Return the OME metadata of a folder, {} if unreadable, None if it is not a Zarr."""
    if not any(os.path.isfile(f"{path}/{name}") for name in METADATA_FILES):
        return None
    for name in ATTRIBUTES_FILES:
        try:
            read = json.loads(Path(path, name).read_bytes())
            attributes = read["attributes"] if name == "zarr.json" else read
            return dict(attributes.get("ome") or attributes)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return {}


def written_name(path: str) -> str:
    r"""Return ``path`` with bytes that a sheet or log cannot contain replaced by \xNN.

    Opening such a name fails with an error for this file only.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    ends = text[: len(text) - len(text.lstrip())] + text[len(text.rstrip()) :]
    return "".join(f"\\x{ord(c):02x}" if c < " " or c == "\x7f" or c in ends else c for c in text)


def _hits(text: str) -> Iterator[_Hit]:
    if _is_pattern(text):
        root = PurePosixPath(*_fixed_parts(text))
        for path in sorted(glob.glob(text, recursive=True)):
            name = str(PurePosixPath(path).relative_to(root))
            if not os.path.isdir(path):
                yield _hit(path, name)
            elif (attributes := zarr_attributes(path)) is not None:
                yield from _zarr_hits(path, name, attributes)
            elif _is_image_folder(path):
                yield _hit(path, name)
        return
    if os.path.isdir(text):
        folder = text.rstrip("/") or "/"
        attributes = zarr_attributes(folder)
        if attributes is None and not _is_image_folder(folder):
            yield from _folder_hits(folder, "", ())
        elif attributes and "plate" in attributes:
            yield from (_hit(*each) for each in plate_images(folder, attributes["plate"]))
        else:
            yield _hit(folder, os.path.basename(os.path.abspath(folder)))
        return
    yield _hit(text, os.path.basename(text))


def _folder_hits(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[_Hit]:
    """Yield the files in a folder, recursively; a link to a parent folder is not followed."""
    try:
        stat = os.stat(folder)
        here = (stat.st_dev, stat.st_ino)
        if here in above:
            return
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield _hit(folder, prefix.rstrip("/") or folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path, name = f"{folder}/{entry.name}", f"{prefix}{entry.name}"
        if not _is_folder(entry):
            is_image = _has_image_suffix(entry.name)
            yield replace(_hit(path, name), is_image=is_image)
        elif (attributes := zarr_attributes(path)) is None and _is_image_folder(path):
            yield _hit(path, name)
        elif attributes is None:
            yield from _folder_hits(path, f"{name}/", (*above, here))
        elif "image-label" not in attributes:
            yield from _zarr_hits(path, name, attributes)


def _zarr_hits(path: str, name: str, attributes: Mapping[str, Any]) -> Iterator[_Hit]:
    inside = list(plate_images(path, attributes.get("plate")))
    if inside:
        yield from (_hit(image, f"{name}/{field}") for image, field in inside)
    else:
        yield _hit(path, name)


def _hit(path: str, name: str) -> _Hit:
    # Normalised as when a sheet is read: ./data/a.tif and data/a.tif are the same row.
    return _Hit(str(Path(written_name(path))), written_name(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)


def _fixed_parts(pattern: str) -> Iterator[str]:
    """Yield the folders before the first wildcard."""
    for part in PurePosixPath(pattern).parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def _with_digest(image: str, name: str) -> str:
    plain = unicodedata.normalize("NFKD", image)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", re.sub(r"[\u0300-\u036f]", "", plain))
    plain = plain[-_READABLE_CHARACTERS:].lstrip("._-") or "image"
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
