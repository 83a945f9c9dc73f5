"""A Zarr group of several images, as bioformats2raw writes it, with the names in its OME-XML.

Source: https://ngff.openmicroscopy.org/0.5/#bf2raw, the transitional layout ``bioformats2raw``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .ome_set import image_names, is_accessory_name

if TYPE_CHECKING:
    import zarr

_METADATA = "OME/METADATA.ome.xml"


@dataclass(frozen=True)
class Series:
    """The images of a group, in order.

    Attributes:
        paths: Path of each image inside the group.
        names: Name of each image, its path if the metadata do not name it.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def images(self) -> list[int]:
        """The indices without a slide's label and thumbnail beside its image."""
        everything = list(range(len(self.names)))
        return [n for n in everything if not is_accessory_name(self.names[n])] or everything

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the images that :attr:`images` leaves out."""
        return tuple(name for n, name in enumerate(self.names) if n not in self.images)


def read_series(group: zarr.Group, *, can_be_listed: bool) -> Series:
    """Return the images of a group; a group at a URL cannot be listed."""
    paths = _listed_paths(group) or _numbered_paths(group, can_be_listed=can_be_listed)
    if not paths:
        return Series((), ())
    named = image_names(_file(group, _METADATA) or b"")
    if len(named) != len(paths):
        named = [""] * len(paths)
    names = tuple(name or path for name, path in zip(named, paths, strict=True))
    return Series(tuple(paths), names)


def _listed_paths(group: zarr.Group) -> Sequence[str]:
    """Return the paths that the group OME lists; those that lead out of the group are ignored."""
    listed: Any = None
    if (series := group.get("OME")) is not None:
        attributes: dict[str, Any] = dict(series.attrs)
        inner = attributes.get("ome")
        listed = (inner if isinstance(inner, dict) else attributes).get("series")
    paths = [str(path) for path in listed] if isinstance(listed, list) else []
    return [path for path in paths if path and _is_inside(path)]


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts


def _numbered_paths(group: zarr.Group, *, can_be_listed: bool) -> Sequence[str]:
    import zarr

    if can_be_listed:
        names = (name for name in group.group_keys() if name.isascii() and name.isdigit())
        return sorted(names, key=int)
    numbers = map(str, itertools.count())
    return list(itertools.takewhile(lambda name: isinstance(group.get(name), zarr.Group), numbers))


def _file(group: zarr.Group, name: str) -> bytes | None:
    """Return the content of a file in a group, None if it does not exist."""
    from zarr.core.sync import sync

    content = sync((group.store_path / name).get())
    return None if content is None else content.to_bytes()
