"""OME-Zarr at URLs as they are found: an image, or the images of a plate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import ImageUnfit, InputError
from ..images.location import RemoteImage
from .sheet import ImageRow
from .zarr_folders import Place, fields_of, paths_inside, place_of

#: Wells of a plate whose metadata are fetched at the same time.
_THREADS = 8


def find_at_url(text: str, known: Sequence[ImageRow]) -> list[tuple[RemoteImage, str, Place]]:
    """Return location, name and place of each image at the URL ``text``: one, or those of a plate.

    A URL that cannot be read now is one image, so that the run reports it; if ``known`` has images
    inside, they are kept instead. Raises InputError, which does not show it, for a wrong URL.
    """
    try:
        location = RemoteImage.parse(text)
    except ValueError as error:
        raise InputError(f"the images of this run: {error}") from None
    try:
        inside = _fields(location)
    except ImageUnfit:
        inside = _known_inside(location, known)
    if not inside:
        return [(location, location.name, {})]
    return [(location.child(path), path.replace("/", "_"), place_of(path)) for path in inside]


def _fields(location: RemoteImage) -> list[str]:
    """Return the paths of the images inside a plate, [] for anything else. Raises ImageUnfit."""
    import zarr

    from ..images.readers.ome_zarr import ome_attributes, opened_remote_group

    with opened_remote_group(location) as (group, _):
        plate = ome_attributes(group).get("plate")
        if plate is None:
            return []

        def well(path: str) -> Mapping[str, Any] | None:
            found = group.get(path)
            return ome_attributes(found).get("well") if isinstance(found, zarr.Group) else None

        paths = list(paths_inside(plate, "wells"))
        with ThreadPoolExecutor(_THREADS) as pool:
            wells = dict(zip(paths, pool.map(well, paths), strict=True))
    return list(fields_of(plate, wells.get))


def _known_inside(location: RemoteImage, known: Sequence[ImageRow]) -> list[str]:
    start = f"{RemoteImage(location.base)}/"
    rows = [RemoteImage(str(row.path)).base for row in known if isinstance(row.path, RemoteImage)]
    return [base.removeprefix(start) for base in rows if base.startswith(start)]
