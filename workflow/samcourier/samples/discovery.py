"""Find images in folders, patterns and OME-Zarr plates as rows of a sample sheet.

No pixels are read. An id depends only on the name of its file, so that new files do not change
existing ids.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..images.location import image_location, is_url
from ..images.readers.built_in import BUILT_IN
from ..images.readers.reader import installed_readers
from ..images.selection import Selection
from .ids import id_with_digest, make_id
from .known import merge_known
from .left_out import LeftOut, asks_for_left_out, image_stem, reason_to_leave_out
from .remote_folders import find_at_url
from .sets import FoundFile, FoundImage, images_of
from .sheet import ImageRow
from .zarr_folders import plate_images, zarr_attributes

#: Suffixes of the built-in readers. A folder is searched for these and those of the installed
#: readers; a pattern selects all files that it matches.
IMAGE_SUFFIXES = tuple(suffix for reader in BUILT_IN for suffix in reader.suffixes)


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        rows: One for each image, in a stable order.
        skipped: Files of a folder whose names are not those of images.
        remarks: What was left out or merged, and which files of a set are missing, a line each.
    """

    rows: list[ImageRow]
    skipped: list[Path]
    remarks: list[str]


def is_sheet(text: str) -> bool:
    """Return True if ``text`` names a sample sheet, False for a folder, pattern or image."""
    return not (is_url(text) or os.path.isdir(text) or _is_pattern(text) or _has_image_suffix(text))


def _has_image_suffix(name: str) -> bool:
    """Return True if a built-in or installed reader has the suffix of this name."""
    return name.lower().endswith(IMAGE_SUFFIXES) or name.lower().endswith(_installed_suffixes())


def _is_image_folder(path: str) -> bool:
    """Return True if a folder that is not a Zarr is an image for an installed reader."""
    return any(each.recognises_folder(Path(path)) for each in installed_readers().readers)


def _installed_suffixes() -> tuple[str, ...]:
    return tuple(suffix for each in installed_readers().readers for suffix in each.suffixes)


def find_images(inputs: Sequence[str], known: Sequence[ImageRow] = ()) -> Found:
    """Return one row for each image in ``inputs``: folders, patterns, plates, files, URLs.

    ``known`` are the rows of an earlier search: their images keep order and id, and new ones
    follow. A folder is searched recursively, without hidden files, label images, thumbnails and
    what other tools wrote. A plate has a row for each field of a well, e.g. A_1_0, with the
    properties row, column and well. Of TIFF files the OME metadata are read, to find the images
    that several files hold. A folder that cannot be listed also has a row, so that the run reports
    it. Raises :class:`InputError` when there is no image.
    """
    files: dict[str, FoundFile] = {}
    left_out: dict[str, LeftOut] = {}
    at_urls = [each for text in filter(is_url, inputs) for each in find_at_url(text, known)]
    for text in inputs:
        if is_url(text):
            continue
        found = list(_files(text))
        out = _left_out(text, found)
        if not any(each.is_image and each.path not in out for each in found):
            raise InputError(_no_image(text, found, out))
        for file in found:
            if file.path not in out:
                files.setdefault(file.path, file)
        left_out |= out
    images, remarks = images_of([each for each in files.values() if each.is_image])
    images += [FoundImage(str(location), name) for location, name, _ in at_urls]
    rows, new, merged = merge_known(known, images)
    ids = _ids_of(new, {row.image.casefold() for row in rows})
    for each in new:
        selection = Selection(scene=each.scene)
        rows.append(ImageRow(ids[each], image_location(each.path), selection))
    # Signatures and passwords are not kept in the rows of an earlier search.
    whole = {str(location): location for location, _, _ in at_urls}
    places = {each.path: each.properties for each in files.values()}
    places |= {str(location): place for location, _, place in at_urls}
    rows = [
        replace(
            row,
            path=whole.get(str(row.path), row.path),
            properties={**places.get(str(row.path), {}), **row.properties},
        )
        for row in rows
    ]
    skipped = [Path(each.path) for each in files.values() if not each.is_image]
    known_paths = {str(row.path): row.image for row in known}
    remarks = [*_left_out_remarks(left_out.values(), known_paths), *remarks, *merged]
    return Found(rows, skipped, remarks)


def _ids_of(images: Sequence[FoundImage], taken: Set[str]) -> dict[FoundImage, str]:
    """Return an id for each image; ``taken`` has those of other images, in lower case.

    Of images with one id the first keeps it, a ``.tif`` before an OME-TIFF, whose short id is
    newer.
    """
    ids: dict[FoundImage, str] = {}
    taken = set(taken)
    for each in sorted(images, key=lambda each: ".ome" in each.name.lower()):
        image = make_id(each.name)
        if image.casefold() in taken:
            place = each.path if each.scene is None else f"{each.path} {each.scene}"
            image = id_with_digest(image, place)
        if image.casefold() in taken:
            raise InputError(
                f"{each.path}: the id {image!r} is already taken, expected each id once"
            )
        taken.add(image.casefold())
        ids[each] = image
    return ids


def _left_out(text: str, files: Sequence[FoundFile]) -> dict[str, LeftOut]:
    """Return the files that are no images of a dataset, by path; none if the user names them."""
    is_searched = os.path.isdir(text) or (_is_pattern(text) and not asks_for_left_out(text))
    if not is_searched:
        return {}
    stems = {image_stem(each.path) for each in files}
    reasons = ((each.path, reason_to_leave_out(each.path, stems)) for each in files)
    return {path: LeftOut(path, reason) for path, reason in reasons if reason is not None}


def _left_out_remarks(left_out: Iterable[LeftOut], known: Mapping[str, str]) -> list[str]:
    """Return a line for each kind of files that were left out; ``known`` has ids by path."""
    of_kind: dict[str, list[str]] = {}
    for each in left_out:
        of_kind.setdefault(each.reason, []).append(each.path)
    remarks = []
    for reason, paths in of_kind.items():
        count = "1 file" if len(paths) == 1 else f"{len(paths)} files, first"
        remarks.append(f"left out as {reason}: {count} {paths[0]}; name a file to segment it")
        if old := [known[path] for path in paths if path in known]:
            remarks.append(
                f"{', '.join(old[:8])}{' ...' if len(old) > 8 else ''}: left out from now on; masks"
                " of earlier runs stay where they are, and are not made again"
            )
    return remarks


def _no_image(text: str, files: Sequence[FoundFile], left_out: Mapping[str, LeftOut]) -> str:
    suffixes = ", ".join((*IMAGE_SUFFIXES, *_installed_suffixes()))
    kinds = Counter(
        f"left out as {left_out[each.path].reason}"
        if each.path in left_out
        else Path(each.path).suffix or "without a suffix"
        for each in files
    )
    there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    return f"{text}: no image found, expected files ending in {suffixes}, or OME-Zarr" + (
        f"; found {there}" if there else ""
    )


def written_name(path: str) -> str:
    r"""Return ``path`` with bytes that a sheet or log cannot contain replaced by \xNN.

    Opening such a name fails with an error for this file only.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    ends = text[: len(text) - len(text.lstrip())] + text[len(text.rstrip()) :]
    return "".join(f"\\x{ord(c):02x}" if c < " " or c == "\x7f" or c in ends else c for c in text)


def _files(text: str) -> Iterator[FoundFile]:
    """Yield the files that one input names: a pattern, a folder, a plate or a file."""
    if _is_pattern(text):
        root = PurePosixPath(*_fixed_parts(text))
        for path in sorted(glob.glob(text, recursive=True)):
            name = str(PurePosixPath(path).relative_to(root))
            if not os.path.isdir(path):
                yield _file(path, name)
            elif (attributes := zarr_attributes(path)) is not None:
                yield from _zarr_files(path, name, attributes)
            elif _is_image_folder(path):
                yield _file(path, name)
        return
    if os.path.isdir(text):
        folder = text.rstrip("/") or "/"
        attributes = zarr_attributes(folder)
        if attributes is None and not _is_image_folder(folder):
            yield from _folder_files(folder, "", ())
        elif attributes and "plate" in attributes:
            for image, name, place in plate_images(folder, attributes["plate"]):
                yield replace(_file(image, name), properties=place)
        else:
            yield _file(folder, os.path.basename(os.path.abspath(folder)))
        return
    yield replace(_file(text, os.path.basename(text)), is_named=True)


def _folder_files(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[FoundFile]:
    """Yield the files in a folder, recursively; a link to a parent folder is not followed."""
    try:
        stat = os.stat(folder)
        here = (stat.st_dev, stat.st_ino)
        if here in above:
            return
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield _file(folder, prefix.rstrip("/") or folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path, name = f"{folder}/{entry.name}", f"{prefix}{entry.name}"
        if not _is_folder(entry):
            is_image = _has_image_suffix(entry.name)
            yield replace(_file(path, name), is_image=is_image)
        elif (attributes := zarr_attributes(path)) is None and _is_image_folder(path):
            yield _file(path, name)
        elif attributes is None:
            yield from _folder_files(path, f"{name}/", (*above, here))
        elif "image-label" not in attributes:
            yield from _zarr_files(path, name, attributes)


def _zarr_files(path: str, name: str, attributes: Mapping[str, Any]) -> Iterator[FoundFile]:
    inside = list(plate_images(path, attributes.get("plate")))
    for image, field, place in inside:
        yield replace(_file(image, f"{name}/{field}"), properties=place)
    if not inside:
        yield _file(path, name)


def _file(path: str, name: str) -> FoundFile:
    # Normalised as when a sheet is read: ./data/a.tif and data/a.tif are the same row.
    return FoundFile(str(Path(written_name(path))), written_name(name))


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
