"""Read an image file as the planes or volumes that the service segments one by one."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from samservice.contract.image_reference import little_endian, pixels_sha256, started_sha256

from ..errors import ImageUnfit
from .axes import Axis, channel_labels, wanted_axes
from .geometry import renamed
from .location import ImageLocation, RemoteImage
from .pixel_cache import PIXELS
from .readers import Index, Source, check_fits_memory, open_source
from .selection import AXES_RULE, Selection, are_axes_valid

#: Planes too large for the memory are read in bands of about this many pixels; the number of rows
#: is a multiple of the usual height of a file's tiles.
_BAND_PX = 8 << 20
_BAND_ROWS = 256


@dataclass(frozen=True)
class Plane:
    """Pixels in the form that the service accepts.

    Attributes:
        pixels: C-contiguous native integers or floats with the axes ``axes``.
        axes: "YX", "CYX", "ZYX" or "CZYX".
        pixels_sha256: The digest of the pixels, see :func:`pixels_sha256`.
    """

    pixels: np.ndarray
    axes: str
    pixels_sha256: str


class Planes:
    """The planes (or volumes) of one opened image; pixels are read one plane at a time.

    Attributes:
        path: The image file or URL.
        axes: Axes of the image, e.g. "TCYX", without the dropped and the projected ones.
        shape: Length of each of ``axes``.
        stack_axes: The axes along which the planes are stacked, e.g. "T".
        stack_shape: Length of each of ``stack_axes``.
        plane_axes: Axes of each plane.
        mask_axes: Axes of the mask: ``axes`` without C.
        mask_shape: Shape of the mask.
        geometry: What the file states along each of ``mask_axes``; it begins at the first
            selected position.
        file_axes: Letter and length of each axis of the file.
        channels: Name of each channel of a plane: the file's, else c0, c1; "" without axis C.
        dtype: Native; uint8 for booleans.
    """

    def __init__(self, path: ImageLocation, source: Source, selection: Selection) -> None:
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
        letters = "".join(axis.letter for axis in self._axes)
        first = {axis.letter: axis.positions[0] for axis in kept.values()}
        own = renamed(source.geometry, source.axes, letters)
        self.geometry = own.along(self.mask_axes).beginning_at(first)
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
        """Length of each of ``plane_axes``."""
        return tuple(self.shape[self.axes.index(letter)] for letter in self.plane_axes)

    @property
    def channel_count(self) -> int:
        return self.plane_shape[0] if self.plane_axes.startswith("C") else 1

    def position(self, number: int) -> tuple[int, ...]:
        """Return the plane's indices in the mask, one for each of ``stack_axes``."""
        return tuple(int(index) for index in np.unravel_index(number, self.stack_shape or (1,)))[
            : len(self.stack_shape)
        ]

    def origin(self, number: int) -> dict[str, int]:
        """Return the plane's first position in the file along T and Z, without projected axes."""
        positions = dict(zip(self.stack_axes, self.position(number), strict=True))
        return {
            axis.letter: axis.positions[positions.get(axis.letter, 0)]
            for axis in self._axes
            if axis.letter in "TZ" and axis.how != "max"
        }

    def read(self, number: int = 0) -> Plane:
        """Read one plane; those of a stack are kept for the next call where the memory allows it.

        A stack is read once to compute its digest and once to send its planes. Up to
        :data:`samcourier.images.pixel_cache.LIMIT_BYTES` the second time costs nothing.

        Raises ImageUnfit when it is damaged, not finite, or larger than the memory, ImageUnread
        when the memory is not free now.
        """
        kept: Plane | None = PIXELS.get(self, number)
        if kept is not None:
            return kept
        plane = self._read_plane(number)
        if len(self) > 1 and len(self) * plane.pixels.nbytes <= PIXELS.limit_bytes:
            PIXELS.put(self, number, plane, plane.pixels.nbytes)
        return plane

    def close(self) -> None:
        """Free the memory of the planes that were kept."""
        PIXELS.drop(self)

    def _read_plane(self, number: int) -> Plane:
        count = math.prod(self.shape) // len(self)
        check_fits_memory(self.path, count * self.dtype.itemsize)
        pixels = self._projected(dict(zip(self.stack_axes, self.position(number), strict=True)))
        pixels = np.ascontiguousarray(pixels, dtype=self.dtype)
        _check_finite(self.path, pixels)
        digest = pixels_sha256(pixels, self.plane_axes)
        return Plane(pixels, self.plane_axes, digest)

    def read_part(
        self, number: int, rows: slice, columns: slice, channel: int | None = None
    ) -> np.ndarray:
        """Read a rectangle of one plane, with all channels or one of them.

        The result has the axes of the plane, without C if ``channel`` is given. Raises ImageUnfit.
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
        """Return the digest of all planes, reading them plane by plane or in bands."""
        digest_of = self._sha256_in_bands if in_bands else lambda n: self.read(n).pixels_sha256
        digests = [digest_of(number) for number in range(len(self))]
        if not self.stack_axes:
            return digests[0]
        return stack_sha256(digests, self.stack_axes, self.stack_shape)

    def _sha256_in_bands(self, number: int) -> str:
        """Return :func:`pixels_sha256` of a plane, YX or CYX."""
        height, width = self.plane_shape[-2:]
        digest = started_sha256(self.dtype, self.plane_shape, self.plane_axes)
        for channel in range(self.channel_count):
            for rows in bands(height, width):
                part = self.read_part(number, rows, slice(0, width), channel)
                digest.update(little_endian(part).data)
        return digest.hexdigest()

    def _projected(self, where: dict[str, int], axes: Sequence[Axis] | None = None) -> np.ndarray:
        """Read one plane and project it, holding one position of the projected axes at a time."""
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
        """Read one position of each axis, None for all selected ones, ordered CZYX."""
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
    """Yield the indices to read: one, or one per channel if these are not adjacent."""
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
def open_planes(path: ImageLocation, selection: Selection | None = None) -> Iterator[Planes]:
    """Open an image as its planes, without reading pixels.

    Samples (S, as in RGB) count as C; an axis of length 1 is dropped. Raises
    :class:`ImageUnfit` for a damaged or unsupported file and for a wrong selection.
    """
    selection = selection or Selection()
    if selection.axes is not None and not are_axes_valid(selection.axes):
        raise ImageUnfit(f"{path}: axes {selection.axes!r}, expected {AXES_RULE}")
    with open_source(path, selection.scene) as source:
        planes = Planes(path, source, selection)
        try:
            yield planes
        finally:
            planes.close()


@asynccontextmanager
async def opened_planes(path: ImageLocation, selection: Selection) -> AsyncIterator[Planes]:
    """Like :func:`open_planes`, opening and closing the file in a thread."""
    context = open_planes(path, selection)
    planes = await asyncio.to_thread(context.__enter__)
    try:
        yield planes
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def file_stamp(path: ImageLocation) -> tuple[int, ...] | None:
    """Return a value that changes when the file is written or replaced, None for no file.

    For a folder (OME-Zarr) it does not reflect changes inside. An image at a URL has always the
    same stamp.
    """
    if isinstance(path, RemoteImage):
        return ()
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of a plane (pixels) in bands that fit into the memory."""
    rows = max(_BAND_PX // width // _BAND_ROWS, 1) * _BAND_ROWS
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def stack_sha256(planes_sha256: Sequence[str], stack_axes: str, stack_shape: Sequence[int]) -> str:
    """Return the SHA-256 of a stack from the digests of its planes, in order."""
    text = "\n".join([f"{stack_axes} {tuple(stack_shape)}", *planes_sha256])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_finite(path: ImageLocation, pixels: np.ndarray) -> None:
    # micro-sam accepts NaN silently, and not every service checks.
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        count = pixels.size - np.count_nonzero(finite)
        raise ImageUnfit(
            f"{path}: {count} of {pixels.size} values are NaN or infinite, expected finite ones"
        )
