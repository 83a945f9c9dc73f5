"""OME-Zarr 0.3 to 0.6: one image, or a bioformats2raw folder of several images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CourierError, ImageUnfit, ImageUnread
from ...files.zarr_names import METADATA_FILES
from ..location import ImageLocation, RemoteImage
from .base import Index, check_fits_memory, damaged, pick_scene
from .bioformats2raw import Series, read_series
from .chunked import ChunkedPixels
from .ngff import NgffUnsupported, flat_multiscale
from .zarr_geometry import zarr_geometry

if TYPE_CHECKING:
    import zarr


class OmeZarrSource:
    """The full-size level of one image."""

    def __init__(
        self,
        path: ImageLocation,
        group: zarr.Group,
        attributes: dict[str, Any],
        among: Series,
    ) -> None:
        import zarr

        multiscale = flat_multiscale(attributes)
        dataset = multiscale["datasets"][0]
        array = group.get(str(dataset["path"]))
        if not isinstance(array, zarr.Array):
            raise TypeError(f"there is no array {dataset['path']}")
        named = [each if isinstance(each, dict) else {"name": each} for each in multiscale["axes"]]
        self.axes = "".join(_letter(str(axis["name"])) for axis in named)
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype = np.dtype(array.dtype)
        if len(self.axes) != len(self.shape):
            raise ValueError(f"axes {self.axes} for the shape {self.shape}")
        self.geometry = zarr_geometry(self.axes, named, multiscale, dataset)
        channels = (attributes.get("omero") or {}).get("channels") or []
        self.channel_names = tuple(str(channel.get("label", "")) for channel in channels)
        self.scene_names = among.names
        self.left_out = among.left_out
        self._path = path
        self._pixels = ChunkedPixels(array, lambda nbytes: check_fits_memory(path, nbytes))

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``; see :class:`.base.Source`."""
        try:
            return self._pixels.read(index)
        except CourierError:
            raise
        except Exception as error:
            raise damaged(self._path, "OME-Zarr", error, "a whole image") from error

    def close(self) -> None:
        """Free the memory of the chunks that were kept for the next read."""
        self._pixels.close()


def is_zarr(path: Path) -> bool:
    """Return True if ``path`` is a folder that zarr can open."""
    return any(os.path.isfile(path / name) for name in METADATA_FILES)


def image_folder(path: Path, scene: int | str | None) -> Path:
    """Return the folder of the image, or of the requested scene in a bioformats2raw folder."""
    import zarr

    group = zarr.open_group(path, mode="r")
    if "multiscales" in ome_attributes(group):
        return path
    series = read_series(group, can_be_listed=True)
    return path / series.paths[pick_scene(path, series.names, scene, series.images)]


def open_ome_zarr(path: Path, scene: int | str | None) -> OmeZarrSource:
    """Open an image, or the requested scene in a bioformats2raw folder. Raises ImageUnfit."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
    except Exception as error:
        raise damaged(path, "Zarr", error, "an OME-Zarr image") from error
    return _image_in(path, group, scene)


def _image_in(
    path: ImageLocation, group: zarr.Group, scene: int | str | None, among: Series | None = None
) -> OmeZarrSource:
    """Return the image in a group, or the requested scene in a bioformats2raw group.

    ``among`` are all scenes if the image is one of them. Raises ImageUnfit.
    """
    import zarr

    try:
        attributes = ome_attributes(group)
    except Exception as error:
        raise damaged(path, "Zarr", error, "an OME-Zarr image") from error
    if "plate" in attributes:
        raise ImageUnfit(
            f"{path}: an OME-Zarr plate, expected one of its images; samcourier sheet lists them"
        )
    if "scene" in attributes:
        raise ImageUnfit(f"{path}: an OME-Zarr scene of several images, expected one of them")
    if not attributes.get("multiscales"):
        series = read_series(group, can_be_listed=not isinstance(path, RemoteImage))
        if not series.paths:
            raise ImageUnfit(f"{path}: a Zarr without multiscales, expected an OME-Zarr image")
        name = series.paths[pick_scene(path, series.names, scene, series.images)]
        inside = path.child(name) if isinstance(path, RemoteImage) else path / name
        try:
            image = group[name]
        except CourierError:
            raise
        except Exception as error:
            raise damaged(inside, "Zarr", error, "an OME-Zarr image") from error
        if not isinstance(image, zarr.Group):
            raise ImageUnfit(f"{inside}: a Zarr array, expected an OME-Zarr image")
        return _image_in(inside, image, None, series)
    names = [str(attributes["multiscales"][0].get("name") or "")]
    pick_scene(path, names, scene)
    try:
        among = among or Series(("",), tuple(names))
        return OmeZarrSource(path, group, attributes, among)
    except NgffUnsupported as error:
        raise ImageUnfit(f"{path}: {error}") from error
    except CourierError:
        raise
    except Exception as error:
        raise damaged(path, "OME-Zarr", error, "multiscales with axes") from error


@contextmanager
def opened_ome_zarr(path: Path, scene: int | str | None) -> Iterator[OmeZarrSource]:
    """Like :func:`open_ome_zarr`, with the interface :data:`.base.Open`."""
    source = open_ome_zarr(path, scene)
    try:
        yield source
    finally:
        source.close()


@contextmanager
def opened_remote_ome_zarr(
    location: RemoteImage, scene: int | str | None
) -> Iterator[OmeZarrSource]:
    """Like :func:`opened_ome_zarr`, for an image at a URL. Raises ImageUnfit."""
    with opened_remote_group(location) as (group, forbidden):
        try:
            source = _image_in(location, group, scene)
        except ImageUnread:
            raise
        except ImageUnfit as error:
            # The metadata that it lacks may be among those that may not be read.
            if not forbidden:
                raise
            raise ImageUnread(f"{error}; {forbidden_words(forbidden)}") from error
        try:
            yield source
        finally:
            source.close()


@contextmanager
def opened_remote_group(location: RemoteImage) -> Iterator[tuple[zarr.Group, Sequence[str]]]:
    """Open a group at a URL, see :func:`.remote.opened_group`. Raises ImageUnfit."""
    try:
        from .remote import opened_group
    except ImportError as error:
        raise ImageUnread(
            f"{location}: an image at a URL needs {error.name}: pip install 'samcourier[remote]'"
        ) from error
    try:
        opened = ExitStack()
        group, forbidden = opened.enter_context(opened_group(location))
    except CourierError:
        raise
    except ImportError as error:
        raise ImageUnread(
            f"{location}: an image at a URL needs {error.name}: pip install 'samcourier[remote]'"
        ) from error
    except Exception as error:
        raise damaged(location, "Zarr", error, "an OME-Zarr image") from error
    with opened:
        yield group, forbidden


def forbidden_words(names: Sequence[str]) -> str:
    """Return the words for metadata for which a server answered 403."""
    return (
        f"the server answered 403 (forbidden) for {', '.join(sorted(set(names)))}, expected the"
        " right to read them"
    )


def ome_attributes(group: zarr.Group) -> dict[str, Any]:
    """Return the OME metadata of a group; since OME-Zarr 0.5 they are under ``ome``."""
    attributes = dict(group.attrs)
    return dict(attributes.get("ome") or attributes)  # type: ignore[arg-type]


def _letter(name: str) -> str:
    """Return the axis as one upper-case letter, ``?`` for an unknown name."""
    return name.upper() if name.lower() in ("t", "c", "z", "y", "x") else "?"
