"""OME-Zarr folders as they are found: their metadata, and the images of a plate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..files.zarr_names import ATTRIBUTES_FILES, METADATA_FILES

#: Properties of the images of a plate, by their names.
Place = Mapping[str, str]


def place_of(inside: str) -> Place:
    """Return row, column and well of an image by its path in the plate: A, 1 and A1 for A/1/0."""
    row, column, *_ = *PurePosixPath(inside).parts, ""
    return {"row": row, "column": column, "well": f"{row}{column}"}


def plate_images(path: str, plate: Any) -> Iterator[tuple[str, str, Place]]:
    """Yield path, name and place of each image of a plate, e.g. plate.zarr/A/1/0 and A_1_0.

    ``plate`` is the entry ``plate`` of the folder's attributes. A well without a list of fields is
    yielded as one image.
    """
    for inside in fields_of(
        plate, lambda well: (zarr_attributes(f"{path}/{well}") or {}).get("well")
    ):
        yield f"{path}/{inside}", inside.replace("/", "_"), place_of(inside)


def fields_of(plate: Any, well_of: Callable[[str], Any]) -> Iterator[str]:
    """Yield the path inside the plate of each of its images, e.g. A/1/0.

    ``well_of`` returns the entry ``well`` of the attributes of a well, by its path in the plate.
    """
    for well_path in paths_inside(plate, "wells"):
        fields = list(paths_inside(well_of(well_path), "images"))
        yield from [f"{well_path}/{field}" for field in fields] or [well_path]


def paths_inside(attributes: Any, name: str) -> Iterator[str]:
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


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts
