"""What the outputs of an image need from each of its planes.

It is computed while the plane is in memory for its segmentation, or later by reading the plane
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import CourierError
from ..images.geometry import Geometry
from ..images.planes import Plane, Planes
from ..images.readers.base import one_line
from ..masks.omezarr import MaskPixels
from ..samples.sheet import ImageRow
from ..settings.run_settings import ObjectSettings

if TYPE_CHECKING:
    from .previews import Preview

TABLES = frozenset(("objects_csv", "objects_parquet"))
#: The outputs that need the planes; the others need the mask alone.
OF_PLANES = TABLES | {"polygons", "preview"}
#: Bytes of memory per pixel for a whole plane, without its pixels: the most that was measured
#: (docs/outputs.md).
_BYTES_PER_PIXEL = {"objects_csv": 64, "objects_parquet": 64, "polygons": 31, "preview": 11}

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class OutputsSource:
    """What the outputs of one image are made from, besides its mask.

    ``key`` and ``geometry`` are those of the mask, ``objects`` the columns of its tables.
    """

    row: ImageRow
    planes: Planes
    key: str
    geometry: Geometry
    objects: ObjectSettings = field(default_factory=ObjectSettings)

    @property
    def plane_geometry(self) -> Geometry:
        """The geometry of the mask of one plane or volume."""
        return self.geometry.along(self.planes.plane_axes.replace("C", ""))


@dataclass(frozen=True)
class PlaneParts:
    """What the outputs need from one plane or volume.

    Attributes:
        number: Index of the plane.
        columns: The columns of the object table (:func:`.objects.measure`), None without a table.
        features: The objects as GeoJSON (:func:`.polygons.features`).
        preview: The picture; only the middle plane has one.
        refused: Why an output cannot be made, by its name.
    """

    number: int
    columns: Mapping[str, Any] | None = None
    features: tuple[str, ...] = ()
    preview: Preview | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def plane_parts(
    names: Collection[str],
    source: OutputsSource,
    number: int,
    pixels: np.ndarray,
    mask: np.ndarray,
) -> PlaneParts:
    """Return what the outputs ``names`` need from one plane or volume.

    Args:
        names: Names of outputs.
        source: The image.
        number: Index of the plane.
        pixels: The pixels with the plane's axes.
        mask: Their labels, with the same axes without C.
    """
    asked, refused = set(names), dict[str, str]()

    def attempted(outputs: Iterable[str], make: Callable[[], _Result]) -> _Result | None:
        result, reason = attempt(make)
        if reason is not None:
            refused.update(dict.fromkeys(outputs, reason))
        return result

    columns, features, shown = None, None, None
    if tables := asked & TABLES:
        columns = attempted(tables, lambda: _columns(source, number, pixels, mask))
    if "polygons" in asked:
        features = attempted(("polygons",), lambda: _features(source, number, mask))
    if "preview" in asked and number == len(source.planes) // 2:
        shown = attempted(("preview",), lambda: _preview(source, pixels, mask))
    return PlaneParts(number, columns, features or (), shown, refused)


def read_parts(
    names: Collection[str], source: OutputsSource, labels: MaskPixels, first: Plane | None
) -> tuple[PlaneParts, ...]:
    """Return :func:`plane_parts` of all planes, reading them one after the other.

    ``labels`` is the mask of the image. ``first`` is the first plane if it is in memory; without
    it, planes may exceed the memory: then only the preview is made, in bands.
    """
    planes, asked = source.planes, set(names)
    if first is None and "Z" not in planes.plane_axes:
        whole = asked - {"preview"}
        too_large = _beyond_memory(source, asked) if whole else None
        if too_large is not None or not whole:
            refused = dict.fromkeys(whole, too_large or "")
            return (_parts_in_bands(source, labels, asked, refused),)
    found = []
    for number in range(len(planes)):
        plane = first if first and number == 0 else planes.read(number)
        mask = np.asarray(labels[(*planes.position(number), ...)])
        found.append(plane_parts(asked, source, number, plane.pixels, mask))
    return tuple(found)


def attempt(make: Callable[[], _Result]) -> tuple[_Result | None, str | None]:
    """Return the result of ``make``, or the reason why it failed: the mask is valid without it.

    Raises CourierError and OSError, which concern the image or the disk.
    """
    try:
        return make(), None
    except (CourierError, OSError):
        raise
    # Any other error: a package that cannot be imported, memory, an unexpected image.
    except Exception as error:
        return None, f"{type(error).__name__}: {one_line(error)}"


def _columns(
    source: OutputsSource, number: int, pixels: np.ndarray, mask: np.ndarray
) -> Mapping[str, Any]:
    from .objects import measure

    planes = source.planes
    return measure(
        mask,
        pixels,
        planes.channels,
        planes.origin(number),
        source.plane_geometry,
        source.objects,
    )


def _features(source: OutputsSource, number: int, mask: np.ndarray) -> tuple[str, ...]:
    from .polygons import features

    origin, pixel_um2 = source.planes.origin(number), source.geometry.pixel_um("YX")
    return tuple(
        text
        for depth, labels in enumerate([mask] if mask.ndim == 2 else mask)
        for text in features(labels, origin | {"Z": origin.get("Z", 0) + depth}, pixel_um2)
    )


def _preview(source: OutputsSource, pixels: np.ndarray, mask: np.ndarray) -> Preview:
    """Return the picture of a plane, or of the middle plane of a volume."""
    from .previews import preview

    if mask.ndim == 3:
        middle = mask.shape[0] // 2
        pixels, mask = pixels[..., middle, :, :], mask[middle]
    return preview(pixels, mask, source.geometry.sizes_um("YX"))


def _parts_in_bands(
    source: OutputsSource, labels: MaskPixels, names: Collection[str], refused: Mapping[str, str]
) -> PlaneParts:
    """Return the middle plane's picture, if it is in ``names``, without reading the whole plane."""
    from .previews import preview_in_bands

    planes, number = source.planes, len(source.planes) // 2
    width = planes.plane_shape[-1]
    if "preview" not in names:
        return PlaneParts(number, refused=refused)
    shown, reason = attempt(
        lambda: preview_in_bands(
            lambda rows: planes.read_part(number, rows, slice(0, width)),
            _PlaneOf(labels, planes.position(number)),
            source.geometry.sizes_um("YX"),
        )
    )
    own = {} if reason is None else {"preview": reason}
    return PlaneParts(number, preview=shown, refused={**refused, **own})


def _beyond_memory(source: OutputsSource, names: Collection[str]) -> str | None:
    """Return why a whole plane exceeds the free memory, None if it does not."""
    import psutil

    planes = source.planes
    pixels_bytes = math.prod(planes.plane_shape) * planes.dtype.itemsize
    other_bytes = math.prod(planes.plane_shape[-2:]) * max(map(_BYTES_PER_PIXEL.__getitem__, names))
    needed, free = pixels_bytes + other_bytes, psutil.virtual_memory().available
    if needed <= free:
        return None
    return (
        f"{planes.path}: needs {needed / 1e9:.1f} GB of memory for a whole plane, expected at"
        f" most the {free / 1e9:.1f} GB that are left; the mask is complete"
    )


class _PlaneOf:
    """One plane of a mask, which is read in parts."""

    dtype = np.dtype(np.uint32)

    def __init__(self, mask: MaskPixels, position: tuple[int, ...]) -> None:
        self.shape = mask.shape[len(position) :]
        self._mask, self._position = mask, position

    def __getitem__(self, block: Any) -> Any:
        return self._mask[(*self._position, *block)]
