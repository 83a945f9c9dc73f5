"""Sets of OME-TIFF files among the files that were found: one entry for each image of a set.

Only the metadata of TIFF files are read, and those of a set once: each file of it may repeat them.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CourierError
from ..images.readers.built_in import TIFF
from ..images.readers.ome_set import (
    COMPANION_SUFFIX,
    OmeImage,
    OmeMetadata,
    read_ome_metadata,
    read_ome_xml,
)
from .sheet import ImageRow

#: Files whose metadata are read at the same time; most of the time is waiting for a file system.
_THREADS = 8
_FILE_NAME = re.compile(r"""FileName\s*=\s*["']([^"']*)["']""")


@dataclass(frozen=True)
class FoundFile:
    """A file or folder that was found.

    Attributes:
        path: As in the sheet.
        name: The part of the path that becomes the id.
        is_image: False for a file whose suffix no reader has.
        is_named: Whether the user named this file, instead of a folder or a pattern.
        properties: Those of an image of a plate.
    """

    path: str
    name: str
    is_image: bool = True
    is_named: bool = False
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FoundImage:
    """An image: a file, or planes in one or more files of a set.

    Attributes:
        path: The file to open.
        name: The name that becomes the id.
        scene: Index of the image among those of the set, None where ``path`` tells it.
        files: Paths of all files of an image of a set, and of its companion file.
    """

    path: str
    name: str
    scene: int | None = None
    files: frozenset[str] = frozenset()


def images_of(files: Sequence[FoundFile]) -> tuple[list[FoundImage], list[str]]:
    """Return the images that ``files`` hold, in order, and a line for each set that lacks files.

    An image of a set comes once. It is opened by the file of its first plane, or by its companion
    file, unless the user named another of its files. Images of which no file was found are left
    out.
    """
    sets = _sets_of(files)
    found = {each.path for each in files}
    images: dict[tuple[int, int] | str, FoundImage] = {}
    for each in files:
        metadata = sets.get(each.path)
        if metadata is None:
            images[each.path] = FoundImage(each.path, each.name)
            continue
        for number in metadata.images_in(Path(each.path)):
            key = (id(metadata), number)
            images[key] = images.get(key) or _image(each, metadata, number, found)
    remarks = []
    for metadata in {id(each): each for each in sets.values()}.values():
        lost = [
            ", ".join(image.files)
            for number, image in enumerate(metadata.images)
            if (id(metadata), number) not in images and metadata.missing_files(image)
        ]
        if lost:
            remarks.append(
                f"{metadata.path}: names {len(metadata.images)} images, {len(lost)} of which lie in"
                f" files that are not there: {'; '.join(lost[:4])}{' ...' if len(lost) > 4 else ''}"
            )
    return list(images.values()), remarks


def further_files(row: ImageRow) -> list[str]:
    """Return the files beside ``row.path`` from which its image is read, [] for a single file.

    Only files whose names say that they are OME-TIFF are looked into.
    """
    path = str(row.path)
    if ".ome" not in os.path.basename(path).lower() or not _may_belong_to_set(path):
        return []
    metadata = _sets_of([FoundFile(path, path)]).get(path)
    if metadata is None:
        return []
    scene = row.selection.scene
    names = [image.name for image in metadata.images]
    numbers = metadata.images_in(Path(path))
    if isinstance(scene, int) and scene < len(names):
        numbers = [scene]
    elif isinstance(scene, str) and scene in names:
        numbers = [names.index(scene)]
    files = {name for number in numbers for name in metadata.images[number].files}
    files |= {metadata.path.name} if metadata.is_companion else set()
    folder = os.path.dirname(path)
    return sorted({os.path.join(folder, name) for name in files} - {path})


def _image(file: FoundFile, metadata: OmeMetadata, number: int, found: set[str]) -> FoundImage:
    """Return an image of a set, of which ``file`` is the first that was found."""
    image = metadata.images[number]
    folder, prefix = os.path.dirname(file.path), os.path.dirname(file.name)
    names = {*image.files, *([metadata.path.name] if metadata.is_companion else [])}
    opened = file.name.rpartition("/")[2] if file.is_named else _opened(metadata, image)
    if os.path.join(folder, opened) not in found and not (metadata.folder / opened).exists():
        opened = os.path.basename(file.path)
    is_only = len(metadata.images_in(Path(opened))) == 1
    return FoundImage(
        path=os.path.join(folder, opened),
        name=os.path.join(prefix, opened if is_only else _scene_name(metadata, number, opened)),
        scene=None if is_only else number,
        files=frozenset(os.path.join(folder, name) for name in names),
    )


def _opened(metadata: OmeMetadata, image: OmeImage) -> str:
    is_opened = metadata.path.name.lower().endswith(COMPANION_SUFFIX)
    return metadata.path.name if is_opened else image.files[0]


def _scene_name(metadata: OmeMetadata, number: int, file: str) -> str:
    """Return a name for one of several images: of the file and the image's own, or its index."""
    stem = re.sub(rf"(\.ome\.[a-z0-9]+|\.tiff?|{COMPANION_SUFFIX})$", "", file, flags=re.IGNORECASE)
    names = [image.name for image in metadata.images]
    name = names[number].strip()
    if not name or names.count(names[number]) > 1 or "/" in name:
        return f"{stem}_s{number}"
    return name if name.startswith(stem) else f"{stem}_{name}"


def _sets_of(files: Sequence[FoundFile]) -> Mapping[str, OmeMetadata]:
    """Return the metadata of each file that belongs to a set, by its path."""
    of_sets = _paths_of_sets([each.path for each in files if _may_belong_to_set(each.path)])
    sets: dict[str, OmeMetadata] = {}
    # Companions first: they name all files of their set.
    for path in sorted(of_sets, key=lambda each: not each.lower().endswith(COMPANION_SUFFIX)):
        if path in sets:
            continue
        try:
            metadata = read_ome_metadata(Path(path))
        except CourierError:
            # Whoever opens the file says what is missing.
            continue
        if metadata is None or not metadata.images:
            continue
        if metadata.is_companion or metadata.files != {os.path.basename(path)}:
            folder = os.path.dirname(path)
            for name in (metadata.path.name, *metadata.files):
                sets.setdefault(os.path.join(folder, name), metadata)
    return sets


def _paths_of_sets(paths: Sequence[str]) -> list[str]:
    """Return the paths of the files whose metadata name other files."""
    with ThreadPoolExecutor(_THREADS) as pool:
        name_others = list(pool.map(_names_others, paths))
    return [path for path, names in zip(paths, name_others, strict=True) if names]


def _names_others(path: str) -> bool:
    text = (read_ome_xml(Path(path)) or b"").decode("utf-8", "replace")
    own = os.path.basename(path)
    return (
        path.lower().endswith(COMPANION_SUFFIX)
        or "BinaryOnly" in text
        or any(html.unescape(name) != own for name in set(_FILE_NAME.findall(text)))
    )


def _may_belong_to_set(path: str) -> bool:
    return path.lower().endswith(TIFF.suffixes)
