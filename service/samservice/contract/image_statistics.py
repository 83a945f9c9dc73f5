"""Statistics of a whole image that each of its tiles needs, computed part by part.

A tile is normalised and thresholded like its whole image; otherwise an empty tile would be noise
scaled to full contrast. A client that cuts an image into tiles computes :class:`ImageStatistics`
over the whole image and sends them with each tile. A service that receives the whole image
computes them itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .channels import range_of, range_ranks
from .errors import WrongParameter
from .normalization import robust_range_of, robust_ranks
from .wire import WireError, is_packed, pack_array, unpack_array

#: Names of the statistics in ``describe()["image_statistics"]``.
INTENSITY_RANGE = "intensity_range"
ROBUST_RANGE = "robust_range"
FULL_RANGE = "full_range"
BRIGHT_OBJECTS = "bright_objects"

_RANGES = (INTENSITY_RANGE, ROBUST_RANGE, FULL_RANGE)
#: All names that an engine may describe as ``image_statistics``.
STATISTICS = (*_RANGES, BRIGHT_OBJECTS)

_MAX_GRID_BYTES = 16 << 20

#: Largest diameter of an object, pixels.
MAX_DIAMETER_PX = 1024.0

#: (low, high) of each channel.
ChannelRanges = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class BrightObjects:
    """What the watershed engine needs to know of a whole image, in units of the normalised one.

    Attributes:
        diameter_px: Typical diameter of an object.
        background: float32 (rows, columns), the background at the centres of squares.
        noise: float32 (rows, columns), the standard deviation of the smoothed image's noise.
        otsu: Otsu's threshold, above the background.
    """

    diameter_px: float
    background: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]
    otsu: float


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of a whole plane, sent with one of its tiles.

    Only the statistics that the service describes are set.

    Attributes:
        shape_px: (Y, X) of the plane.
        origin_px: (Y, X) of the tile's first pixel in the plane.
        intensity_range: (low, high) of each channel, see :func:`.channels.intensity_range`.
        robust_range: (low, high) of each channel, see :func:`.normalization.robust_range`.
        full_range: (minimum, maximum) of each channel.
        bright_objects: See :func:`.bright_objects.bright_objects`.
    """

    shape_px: tuple[int, int]
    origin_px: tuple[int, int]
    intensity_range: ChannelRanges = ()
    robust_range: ChannelRanges = ()
    full_range: ChannelRanges = ()
    bright_objects: BrightObjects | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the argument ``image_statistics`` of ``segment_all``: JSON values and bytes."""
        wired: dict[str, Any] = {
            "shape_px": list(self.shape_px),
            "origin_px": list(self.origin_px),
        }
        for name in _RANGES:
            if ranges := getattr(self, name):
                wired[name] = [list(each) for each in ranges]
        if self.bright_objects is not None:
            wired[BRIGHT_OBJECTS] = {
                name: pack_array(value, "raw") if isinstance(value, np.ndarray) else value
                for name, value in vars(self.bright_objects).items()
            }
        return wired


def checked_statistics(
    value: Any, wanted: Sequence[str], image_shape: Sequence[int], axes: str
) -> ImageStatistics:
    """Return the ``image_statistics`` of a request.

    ``value`` is the argument as received, ``wanted`` the names that the engine describes,
    ``image_shape`` and ``axes`` those of the image or tile in the same request.

    Raises :class:`WrongParameter` when ``value`` is malformed or does not fit the image.
    """
    if not wanted or "Z" in axes:
        what = "volumes" if wanted else "this engine's images"
        raise WrongParameter(f"image_statistics were sent, but {what} take none")
    keys = {"shape_px", "origin_px", *wanted}
    if not isinstance(value, Mapping) or set(value) != keys:
        received = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise WrongParameter(f"image_statistics needs the keys {sorted(keys)}, got {received}")
    shape, origin = (_pair(name, value[name]) for name in ("shape_px", "origin_px"))
    for start, size, whole in zip(origin, image_shape[-2:], shape, strict=True):
        if start + size > whole:
            raise WrongParameter(
                f"image_statistics: the tile of {tuple(image_shape[-2:])} px at {origin} "
                f"lies outside of its image of {shape} px"
            )
    channel_count = image_shape[0] if "C" in axes else 1
    ranges = {
        name: _checked_range(name, value[name], channel_count) for name in _RANGES if name in wanted
    }
    return ImageStatistics(
        shape,
        origin,
        bright_objects=(
            _checked_bright_objects(value[BRIGHT_OBJECTS]) if BRIGHT_OBJECTS in wanted else None
        ),
        **ranges,
    )


def _pair(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2:
        first, second = value
        if all(type(each) is int and 0 <= each < 1 << 31 for each in value):
            return first, second
    raise WrongParameter(f"image_statistics: {name} {value!r:.80}, expected [Y, X] in pixels")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongParameter(f"image_statistics: {name} {value!r:.80}, expected a finite number")
    return float(value)


def _checked_range(name: str, value: Any, channel_count: int) -> ChannelRanges:
    pairs = [tuple(each) if isinstance(each, list | tuple) else () for each in _items(value)]
    if len(pairs) != channel_count or any(len(pair) != 2 for pair in pairs):
        raise WrongParameter(
            f"image_statistics: {name} {value!r:.80}, expected [low, high] for each of "
            f"{channel_count} channels"
        )
    checked = tuple((_number(name, low), _number(name, high)) for low, high in pairs)
    if any(low > high for low, high in checked):
        raise WrongParameter(f"image_statistics: {name} {value!r:.80}, expected low <= high")
    return checked


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _checked_bright_objects(value: Any) -> BrightObjects:
    expected = {"diameter_px", "background", "noise", "otsu"}
    if not isinstance(value, Mapping) or set(value) != expected:
        raise WrongParameter(
            f"image_statistics: bright_objects {value!r:.80}, expected diameter_px, background,"
            " noise and otsu"
        )
    diameter_px, otsu = (
        _number(f"bright_objects.{name}", value[name]) for name in ("diameter_px", "otsu")
    )
    if not 0 < diameter_px <= MAX_DIAMETER_PX:
        raise WrongParameter(
            f"image_statistics: bright_objects.diameter_px {diameter_px}, expected more than 0 and"
            f" at most {MAX_DIAMETER_PX:g}"
        )
    background, noise = (_checked_grid(name, value[name]) for name in ("background", "noise"))
    if background.shape != noise.shape:
        raise WrongParameter(
            f"image_statistics: bright_objects.noise {noise.shape}, expected the background's"
            f" {background.shape}"
        )
    return BrightObjects(diameter_px, background, noise, otsu)


def _checked_grid(name: str, value: Any) -> npt.NDArray[np.float32]:
    try:
        grid = unpack_array(value, _MAX_GRID_BYTES) if is_packed(value) else value
    except WireError as error:
        raise WrongParameter(f"image_statistics: bright_objects.{name}: {error}") from error
    if (
        not isinstance(grid, np.ndarray)
        or grid.dtype != np.float32
        or grid.ndim != 2
        or grid.size == 0
        or not np.isfinite(grid).all()
    ):
        raise WrongParameter(
            f"image_statistics: bright_objects.{name}, expected finite float32 (rows, columns)"
        )
    return grid


Parts = Callable[[], Iterable[npt.NDArray[Any]]]

_DIGIT_BITS = 16


def streamed_intensity_range(parts: Parts, dtype: np.dtype[Any], size: int) -> tuple[float, float]:
    """Return :func:`.channels.intensity_range` of a channel that is read part by part.

    ``parts()`` yields every pixel of the channel once, in any order and shape; ``size`` is the
    number of pixels. The result is exact: a radix selection finds the order statistics 16 bits at
    a time. It reads the channel once for pixels of 8 and 16 bits, twice for 32, four times for 64.
    """
    pixels = _order_statistics(parts, dtype, range_ranks(size))
    return range_of(pixels, size)


def streamed_robust_and_full_range(
    parts: Parts, dtype: np.dtype[Any], size: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return :func:`.normalization.robust_range` and (minimum, maximum) of a channel.

    Arguments, exactness and cost are those of :func:`streamed_intensity_range`.
    """
    pixels = _order_statistics(parts, dtype, robust_ranks(size))
    return robust_range_of(pixels, size), (float(pixels[0]), float(pixels[1]))


def _order_statistics(parts: Parts, dtype: np.dtype[Any], ranks: Sequence[int]) -> list[Any]:
    """Return the values at ``ranks`` (zero-based) of the sorted pixels."""
    bits = max(8 * dtype.itemsize, _DIGIT_BITS)
    found = {rank: (0, rank) for rank in ranks}
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        prefixes = {prefix for prefix, _ in found.values()}
        counts = {prefix: np.zeros(1 << _DIGIT_BITS, np.int64) for prefix in prefixes}
        for part in parts():
            keys = _sortable(part.ravel())
            for prefix, count in counts.items():
                matching = keys
                if shift + _DIGIT_BITS < bits:
                    matching = keys[keys >> keys.dtype.type(shift + _DIGIT_BITS) == prefix]
                digits = (matching >> matching.dtype.type(shift)) & matching.dtype.type(0xFFFF)
                count += np.bincount(digits.astype(np.intp), minlength=1 << _DIGIT_BITS)
        for rank, (prefix, offset) in found.items():
            sums = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(sums, offset, side="right"))
            before = int(sums[digit - 1]) if digit else 0
            found[rank] = (prefix << _DIGIT_BITS | digit, offset - before)
    return [_from_sortable(found[rank][0], dtype) for rank in ranks]


def _sortable(pixels: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return unsigned keys of at least 16 bits that sort in the same order as the pixels."""
    if pixels.dtype.itemsize == 1:
        pixels = pixels.astype(np.int16 if pixels.dtype.kind == "i" else np.uint16)
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    keys = np.ascontiguousarray(pixels).view(unsigned)
    if pixels.dtype.kind == "i":
        keys = keys ^ sign
    if pixels.dtype.kind == "f":
        keys = np.where(keys & sign, ~keys, keys | sign)
    return keys


def _from_sortable(key: int, dtype: np.dtype[Any]) -> Any:
    wide = dtype
    if dtype.itemsize == 1:
        wide = np.dtype(np.int16 if dtype.kind == "i" else np.uint16)
    unsigned = np.dtype(f"u{wide.itemsize}")
    sign, every = 1 << (8 * wide.itemsize - 1), (1 << 8 * wide.itemsize) - 1
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key = key ^ sign if key & sign else key ^ every
    return np.array([key], unsigned).view(wide)[0].astype(dtype)
