"""CZI, with pylibCZIrw if it is installed (extra ``vendor``): tile scans are stitched.

The directory of the file says which scenes, planes and tiles it holds; its XML may describe the
acquisition that a part was cut from. Where tiles overlap, the later one is on top; between tiles
the pixels are 0.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ImageUnfit
from ..geometry import Geometry, measured_axis
from .base import Index, damaged, one_line, pick_scene

_PACKAGE = "pylibCZIrw"
#: dtype and number of samples of a pixel; colours are stored as blue, green, red.
_PIXEL_TYPES: Mapping[str, tuple[str, int]] = {
    "Gray8": ("uint8", 1),
    "Gray16": ("uint16", 1),
    "Gray32Float": ("float32", 1),
    "Bgr24": ("uint8", 3),
    "Bgr48": ("uint16", 3),
    "Bgr96Float": ("float32", 3),
}
_PLANE_AXES = "TCZ"
#: Other dimensions of a CZI: rotation, illumination, phase, view, block.
_OTHER_AXES = "RIHVB"


@dataclass(frozen=True)
class Scene:
    """A scene as the directory of the file lists it.

    Attributes:
        number: Its S coordinate, None in a file without scenes.
        positions: The coordinates along T, C and Z, in order.
        planes: The T, C, Z coordinates of the planes that have tiles.
        left, top, width, height: The rectangle around all tiles, in pixels.
    """

    number: int | None
    positions: Mapping[str, tuple[int, ...]]
    planes: frozenset[tuple[int, ...]]
    left: int
    top: int
    width: int
    height: int


class CziSource:
    """One scene of an open CZI; see :class:`.base.Source`."""

    def __init__(self, path: Path, document: Any, scene: Scene, names: tuple[str, ...]) -> None:
        channels = scene.positions["C"]
        kinds = {str(document.get_channel_pixel_type(channel)) for channel in channels}
        kind = kinds.pop()
        if kinds or kind not in _PIXEL_TYPES:
            raise ImageUnfit(
                f"{path}: pixels of {', '.join(sorted({kind, *kinds}))}, expected one of"
                f" {', '.join(_PIXEL_TYPES)} in all channels"
            )
        dtype, samples = _PIXEL_TYPES[kind]
        self.dtype = np.dtype(dtype)
        self.axes = "TCZYX" + ("S" if samples > 1 else "")
        sizes = [len(scene.positions[axis]) for axis in _PLANE_AXES]
        self.shape = (*sizes, scene.height, scene.width, *([samples] if samples > 1 else []))
        metadata = _metadata(document)
        self.geometry = _geometry(metadata)
        self.channel_names = _channel_names(metadata, channels)
        self.scene_names = names
        self._path, self._document, self._scene = path, document, scene

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``; see :class:`.base.Source`."""
        ranges = [
            range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            for part, size in zip(index, self.shape, strict=True)
        ]
        rows, columns = ranges[3:5]
        samples = ranges[5:] or [range(1)]
        pixels = np.empty([len(each) for each in [*ranges[:5], *samples]], self.dtype)
        for at in itertools.product(*(range(len(each)) for each in ranges[:3])):
            plane = tuple(
                self._scene.positions[axis][positions[number]]
                for axis, positions, number in zip(_PLANE_AXES, ranges[:3], at, strict=True)
            )
            pixels[at] = self._read_plane(plane, rows, columns)[..., list(samples[0])]
        kept = [
            len(each) for each, part in zip(ranges, index, strict=True) if isinstance(part, slice)
        ]
        return pixels.reshape(kept)

    def _read_plane(self, plane: tuple[int, ...], rows: range, columns: range) -> np.ndarray:
        """Return some pixels of a plane, (Y, X, samples) in the order red, green, blue."""
        coordinates = dict(zip(_PLANE_AXES, plane, strict=True))
        if plane not in self._scene.planes:
            raise damaged(self._path, "CZI", f"the plane {coordinates} is missing")
        left, top = self._scene.left + columns.start, self._scene.top + rows.start
        width, height = columns[-1] - columns.start + 1, rows[-1] - rows.start + 1
        try:
            pixels = self._document.read(
                roi=(left, top, width, height), plane=coordinates, scene=self._scene.number
            )
        except Exception as error:
            raise damaged(self._path, "CZI", error) from error
        return np.asarray(pixels)[:: rows.step, :: columns.step, ::-1]


@contextmanager
def open_czi(path: Path, scene: int | str | None) -> Iterator[CziSource]:
    """Open the requested scene of a CZI, by default its only one. Raises ImageUnfit."""
    try:
        czi = importlib.import_module(f"{_PACKAGE}.czi")
    except ImportError as error:
        raise ImageUnfit(
            f"{path}: a CZI file, whose reader is not installed ({one_line(error)}),"
            f" expected {_PACKAGE}: pip install {_PACKAGE}"
        ) from error
    with ExitStack() as stack:
        try:
            document = stack.enter_context(czi.open_czi(str(path)))
            scenes = _scenes(path, document)
            names = _scene_names(_metadata(document), scenes)
            source = CziSource(path, document, scenes[pick_scene(path, names, scene)], names)
        except ImageUnfit:
            raise
        except Exception as error:
            raise damaged(path, "CZI", error) from error
        yield source


def _scenes(path: Path, document: Any) -> list[Scene]:
    """Return the scenes that the directory of the file lists, by their S coordinates."""
    tiles: dict[int | None, list[tuple[dict[str, int], Any]]] = {}

    def add(_: int, block: Any) -> bool:
        at = block.coordinate.to_dict()
        tiles.setdefault(at.get("S"), []).append((at, block.logicalRect))
        return True

    document.enumerate_subblocks_subset(add, only_layer0=True)
    if not tiles:
        raise ImageUnfit(f"{path}: a CZI without an image, expected one")
    for axis in _OTHER_AXES:
        positions = {at.get(axis, 0) for of_scene in tiles.values() for at, _ in of_scene}
        if len(positions) > 1:
            raise ImageUnfit(
                f"{path}: {len(positions)} positions along the dimension {axis} of CZI, expected"
                " several along T, C, Z and the scenes alone"
            )
    return [
        _scene(number, tiles[number])
        for number in sorted(tiles, key=lambda each: -1 if each is None else each)
    ]


def _scene(number: int | None, tiles: list[tuple[dict[str, int], Any]]) -> Scene:
    planes = {tuple(at.get(axis, 0) for axis in _PLANE_AXES) for at, _ in tiles}
    left, top = min(rect.x for _, rect in tiles), min(rect.y for _, rect in tiles)
    return Scene(
        number=number,
        positions={
            axis: tuple(sorted({plane[at] for plane in planes}))
            for at, axis in enumerate(_PLANE_AXES)
        },
        planes=frozenset(planes),
        left=left,
        top=top,
        width=max(rect.x + rect.w for _, rect in tiles) - left,
        height=max(rect.y + rect.h for _, rect in tiles) - top,
    )


def _scene_names(metadata: Any, scenes: list[Scene]) -> tuple[str, ...]:
    """Return the name of each scene by its S coordinate, "" for one without a name."""
    described = _inside(metadata, "Information", "Image", "Dimensions", "S", "Scenes", "Scene")
    names = {str(each.get("@Index")): str(each.get("@Name") or "") for each in _elements(described)}
    return tuple(names.get(str(scene.number), "") for scene in scenes)


def _channel_names(metadata: Any, channels: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of these channels, () if it names none."""
    path = ("Information", "Image", "Dimensions", "Channels", "Channel")
    described = _elements(_inside(metadata, *path))
    if not described or channels[-1] >= len(described):
        return ()
    names = tuple(str(described[channel].get("@Name") or "") for channel in channels)
    return names if any(names) else ()


def _geometry(metadata: Any) -> Geometry:
    """Return the geometry; the distances of CZI are in metres."""
    distances = _elements(_inside(metadata, "Scaling", "Items", "Distance"))
    sizes = {str(each.get("@Id")): each.get("Value") for each in distances}
    return Geometry(tuple(measured_axis(axis, sizes.get(axis), "meter") for axis in "ZYX"))


def _metadata(document: Any) -> Any:
    return _inside(document.metadata, "ImageDocument", "Metadata")


def _inside(element: Any, *names: str) -> Any:
    for name in names:
        element = element.get(name) if isinstance(element, dict) else None
    return element


def _elements(value: Any) -> list[dict[str, Any]]:
    """Return the elements of one name, which are no list if there is only one."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict)]
