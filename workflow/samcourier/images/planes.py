"""Image file and selection -> the planes or volumes that the service segments one by one."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ImageUnfit
from .axes import Axis, channel_labels, wanted_axes
from .readers import Index, Source, check_fits_memory, open_source
from .selection import AXES_RULE, Selection, are_axes_valid

#: Planes too large to hold are read in bands of so many pixels, and of whole rows of file tiles.
_BAND_PX = 8 << 20
_BAND_ROWS = 256


@dataclass(frozen=True)
class Plane:
    """Pixels as the service takes them.

    ``pixels`` are C-contiguous, native integers or floats with the axes "YX", "CYX", "ZYX" or
    "CZYX". ``pixels_sha256`` is :func:`pixels_sha256` of them.
    """

    pixels: np.ndarray
    axes: str
    pixel_size_um: float | None
    pixels_sha256: str


class Planes:
    """The planes (or volumes) of one opened image; pixels are read one plane at a time.

    ``axes`` and ``shape`` are those of the image without what was dropped or projected, e.g.
    "TCYX"; ``plane_axes`` are those of each plane. The mask has the axes of the image less C.
    ``dtype`` is native, uint8 for booleans. ``file_axes`` are letter and size of the file's.
    ``channels`` names those of each plane: as the file does, else c0, c1; "" without axis C.
    """

    def __init__(self, path: Path, source: Source, selection: Selection) -> None:
        self.path = path
        self._source = source
        self._axes = wanted_axes(path, source, selection)
        kept = {axis.letter: axis for axis in self._axes if axis.is_kept}
        self.axes = "".join(letter for letter in "TCZYX" if letter in kept)
        self.shape = tuple(len(kept[letter].positions) for letter in self.axes)
        self.stack_axes = "".join(each for each in self.axes if kept[each].how == "planes")
        self.stack_shape = tuple(len(kept[letter].positions) for letter in self.stack_axes)
        self.plane_axes = "".join(each for each in self.axes if each not in self.stack_axes)
        self.mask_axes = self.axes.replace("C", "")
        self.mask_shape = tuple(len(kept[letter].positions) for letter in self.mask_axes)
        self.pixel_size_um = source.pixel_size_um
        self.z_spacing_um = source.z_spacing_um
        self.file_axes = tuple(
            (axis.letter, size) for axis, size in zip(self._axes, source.shape, strict=True)
        )
        self.channels = channel_labels(kept.get("C"), source.channel_names)
        is_bool = source.dtype.kind == "b"
        self.dtype = np.dtype(np.uint8) if is_bool else source.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return math.prod(self.stack_shape)

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """The shape of each plane or volume, along ``plane_axes``."""
        return tuple(self.shape[self.axes.index(letter)] for letter in self.plane_axes)

    @property
    def channel_count(self) -> int:
        return self.plane_shape[0] if self.plane_axes.startswith("C") else 1

    def position(self, number: int) -> tuple[int, ...]:
        """Return where the plane lies in the mask, one index for each of ``stack_axes``."""
        return tuple(int(index) for index in np.unravel_index(number, self.stack_shape or (1,)))[
            : len(self.stack_shape)
        ]

    def origin(self, number: int) -> dict[str, int]:
        """Return where the plane begins in the file, by T and Z; what was projected is not said."""
        where = dict(zip(self.stack_axes, self.position(number), strict=True))
        return {
            axis.letter: axis.positions[where.get(axis.letter, 0)]
            for axis in self._axes
            if axis.letter in "TZ" and axis.how != "max"
        }

    def read(self, number: int = 0) -> Plane:
        """Read one plane. Raises ImageUnfit when it is damaged, not finite, or beyond memory."""
        count = math.prod(self.shape) // len(self)
        check_fits_memory(self.path, count * self.dtype.itemsize)
        pixels = self._projected(dict(zip(self.stack_axes, self.position(number), strict=True)))
        pixels = np.ascontiguousarray(pixels, dtype=self.dtype)
        _check_finite(self.path, pixels)
        digest = pixels_sha256(pixels, self.plane_axes)
        return Plane(pixels, self.plane_axes, self.pixel_size_um, digest)

    def read_part(
        self, number: int, rows: slice, columns: slice, channel: int | None = None
    ) -> np.ndarray:
        """Read a part of one plane, all its channels or one of them, without the rest.

        Returns the axes of :class:`Plane`, less C where ``channel`` names one. Raises ImageUnfit.
        """
        cut = {"Y": rows, "X": columns}
        axes = [
            replace(axis, positions=axis.positions[cut[axis.letter]])
            if axis.letter in cut
            else replace(axis, positions=[axis.positions[channel]], how="index")
            if axis.letter == "C" and axis.is_kept and channel is not None
            else axis
            for axis in self._axes
        ]
        where = dict(zip(self.stack_axes, self.position(number), strict=True))
        pixels = np.ascontiguousarray(self._projected(where, axes), dtype=self.dtype)
        _check_finite(self.path, pixels)
        return pixels

    def sha256(self, *, in_bands: bool = False) -> str:
        """Return the digest of all planes, reading one after the other, or band after band."""
        digest_of = self._sha256_in_bands if in_bands else lambda n: self.read(n).pixels_sha256
        digests = [digest_of(number) for number in range(len(self))]
        if not self.stack_axes:
            return digests[0]
        return stack_sha256(digests, self.stack_axes, self.stack_shape)

    def _sha256_in_bands(self, number: int) -> str:
        """Return :func:`pixels_sha256` of a plane, YX or CYX."""
        height, width = self.plane_shape[-2:]
        digest = _started_sha256(self.dtype, self.plane_shape, self.plane_axes)
        for channel in range(self.channel_count):
            for rows in bands(height, width):
                part = self.read_part(number, rows, slice(0, width), channel)
                digest.update(_little_endian(part).data)
        return digest.hexdigest()

    def _projected(self, where: dict[str, int], axes: Sequence[Axis] | None = None) -> np.ndarray:
        """Read the positions of projected axes one after the other: one plane in memory."""
        axes = axes or self._axes
        choices: list[Sequence[int | None]] = []
        for axis in axes:
            if axis.letter in where:
                choices.append([axis.positions[where[axis.letter]]])
            else:
                choices.append([None] if axis.is_kept else axis.positions)
        pixels = (self._read_at(axes, positions) for positions in itertools.product(*choices))
        return functools.reduce(np.maximum, pixels)

    def _read_at(self, axes: Sequence[Axis], positions: Sequence[int | None]) -> np.ndarray:
        """Read one position of each axis, None for all that is wanted; ordered CZYX."""
        parts = [self._source.read(index) for index in _indices(axes, positions)]
        letters = [a.letter for a, at in zip(axes, positions, strict=True) if at is None]
        if "C" not in letters or len(parts) == 1:
            (pixels,) = parts
        else:
            letters.remove("C")
            letters.insert(0, "C")
            pixels = np.stack(parts)
        order = [letter for letter in self.plane_axes if letter in letters]
        return pixels.transpose([letters.index(letter) for letter in order])


def _indices(axes: Sequence[Axis], positions: Sequence[int | None]) -> Iterator[Index]:
    """Return what to read: all at once, but channels that lie apart one by one."""
    parts: list[list[int | slice]] = []
    for axis, position in zip(axes, positions, strict=True):
        if position is not None:
            parts.append([position])
        elif isinstance(axis.positions, range):
            parts.append([slice(axis.positions.start, axis.positions.stop)])
        else:
            parts.append(list(axis.positions))
    return itertools.product(*parts)


@contextmanager
def open_planes(path: Path, selection: Selection | None = None) -> Iterator[Planes]:
    """Open an image and say what its planes are, without reading one.

    Samples (S, as in RGB) count as C; an axis of length 1 is dropped. Raises
    :class:`ImageUnfit` for everything that is wrong with the file or the selection.
    """
    selection = selection or Selection()
    if selection.axes is not None and not are_axes_valid(selection.axes):
        raise ImageUnfit(f"{path}: axes {selection.axes!r}, expected {AXES_RULE}")
    with open_source(path, selection.scene) as source:
        yield Planes(path, source, selection)


@asynccontextmanager
async def opened_planes(path: Path, selection: Selection) -> AsyncIterator[Planes]:
    """As :func:`open_planes`, opening and closing in a thread."""
    context = open_planes(path, selection)
    planes = await asyncio.to_thread(context.__enter__)
    try:
        yield planes
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written to or replaced; None when it is not there.

    Of an OME-Zarr, a folder, it does not tell what changes inside.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def pixels_sha256(array: np.ndarray, axes: str) -> str:
    """Return the sha256 over dtype, shape, axes and little-endian bytes of ``array``."""
    digest = _started_sha256(array.dtype, array.shape, axes)
    digest.update(_little_endian(array).data)
    return digest.hexdigest()


def _started_sha256(dtype: np.dtype, shape: tuple[int, ...], axes: str) -> hashlib._Hash:
    return hashlib.sha256(f"{dtype.newbyteorder('<').str} {shape} {axes}\n".encode())


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of a plane in bands that are small enough to hold."""
    rows = max(_BAND_PX // width // _BAND_ROWS, 1) * _BAND_ROWS
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def stack_sha256(planes_sha256: Sequence[str], stack_axes: str, stack_shape: Sequence[int]) -> str:
    """Return the sha256 of an image of several planes, from theirs in their order."""
    text = "\n".join([f"{stack_axes} {tuple(stack_shape)}", *planes_sha256])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_finite(path: Path, pixels: np.ndarray) -> None:
    # micro-sam takes NaN without a word; not every service looks.
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        count = pixels.size - np.count_nonzero(finite)
        raise ImageUnfit(
            f"{path}: {count} of {pixels.size} values are NaN or infinite, expected finite ones"
        )
