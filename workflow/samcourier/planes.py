"""Image file -> pixels with axes and pixel size.

Read are TIFF (OME, ImageJ, plain) and PNG. What a file leaves open is refused with a sentence
that says what to write into the sample sheet; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile

from .dataset import AXES_RULE, are_axes_valid
from .errors import ImageUnfit

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_EXPECTED = "expected a TIFF or PNG file"

_UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25400.0,
    "inch": 25400.0, "um": 1.0, "µm": 1.0, "\u03bcm": 1.0, "\\u00B5m": 1.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
}  # fmt: skip
#: Coarser than this, a plain TIFF's resolution is a printer's (254 dpi), not a microscope's.
_COARSEST_TIFF_UM = 100.0

# A damaged file shows in tifffile's log only; its words go into our errors, not to the screen.
_tifffile_log = logging.getLogger("tifffile")
_tifffile_log.propagate = False
_tifffile_log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Plane:
    """One image as the service takes it.

    ``pixels`` are C-contiguous, native integers or floats with the axes "YX", "CYX", "ZYX" or
    "CZYX". ``pixels_sha256`` is :func:`pixels_sha256` of them.
    """

    pixels: np.ndarray
    axes: str
    pixel_size_um: float | None
    pixels_sha256: str


@dataclass(frozen=True)
class _Decoded:
    """What the file holds, with the file's own axes."""

    pixels: np.ndarray
    axes: str
    pixel_size_um: float | None = None
    channel_names: tuple[str, ...] = ()


def read_plane(path: Path, *, axes: str | None = None, channel: int | str | None = None) -> Plane:
    """Read the image at ``path``; only the first series of a TIFF with several sizes.

    ``axes`` overrides the file's own, one letter of TCZYXS for each dimension; without it a
    stack with more than one Z is refused. Samples (S, as in RGB) count as C, T and Z of length 1
    are dropped. ``channel`` picks one by zero-based index or by its OME name. Booleans become
    uint8. The pixel size is the file's along x, None when it says none.

    Raises :class:`ImageUnfit` for everything that is wrong with the file or these arguments.
    """
    if axes is not None and not are_axes_valid(axes):
        raise ImageUnfit(f"{path}: axes {axes!r}, expected {AXES_RULE}")
    decoded = _decode(path, axes)
    pixels, letters = _drop_and_order(decoded.pixels, axes or decoded.axes)
    if channel is not None:
        pixels, letters = _pick_channel(path, pixels, letters, channel, decoded.channel_names)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    pixels = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
    return Plane(pixels, letters, decoded.pixel_size_um, pixels_sha256(pixels, letters))


def pixels_sha256(array: np.ndarray, axes: str) -> str:
    """Return the sha256 over dtype, shape, axes and little-endian bytes of ``array``."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str} {array.shape} {axes}\n".encode())
    digest.update(little.data)
    return digest.hexdigest()


def _describe(shape: Sequence[int], axes: str) -> str:
    return f"shape {tuple(int(size) for size in shape)} ({axes})"


def _decode(path: Path, axes: str | None) -> _Decoded:
    try:
        # Opening a pipe or a device could wait for ever.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ImageUnfit(f"{path}: is no regular file, {_EXPECTED}")
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ImageUnfit(f"{path}: no such file, {_EXPECTED}") from None
    except IsADirectoryError:
        raise ImageUnfit(f"{path}: is a directory, {_EXPECTED}") from None
    except OSError as error:
        raise ImageUnfit(f"{path}: cannot be opened ({error.strerror}), {_EXPECTED}") from None
    if not head:
        raise ImageUnfit(f"{path}: the file is empty, {_EXPECTED}")
    if head.startswith(_TIFF_MAGIC):
        return _read_tiff(path, axes)
    if head.startswith(_PNG_MAGIC):
        return _read_png(path, axes)
    raise ImageUnfit(f"{path}: begins with {head!r}, {_EXPECTED}")


def _read_png(path: Path, axes: str | None) -> _Decoded:
    # Not Pillow, which cuts 16-bit colour to 8 bits without a word.
    try:
        pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except Exception as error:
        raise ImageUnfit(f"{path}: damaged PNG ({_one_line(error)}), {_EXPECTED}") from error
    own_axes = "YX" if pixels.ndim == 2 else "YXS"
    _check(path, pixels.shape, pixels.dtype, own_axes, axes)
    return _Decoded(pixels, own_axes)


def _read_tiff(path: Path, axes: str | None) -> _Decoded:
    try:
        with _tifffile_errors() as errors, tifffile.TiffFile(path) as tiff:
            series = tiff.series
            if not series:
                raise ImageUnfit(f"{path}: a TIFF without an image, {_EXPECTED}")
            first = series[0]
            if any((other.shape, other.axes) == (first.shape, first.axes) for other in series[1:]):
                raise ImageUnfit(
                    f"{path}: {len(series)} images of {_describe(first.shape, first.axes)} in"
                    " one file, expected one; split it into a file for each"
                )
            # Before reading: a time series may be larger than the memory.
            _check(path, first.shape, first.dtype, first.axes, axes)
            is_incomplete = any(page is None for page in first.pages)
            decoded = _Decoded(
                np.asarray(first.asarray()), first.axes, _pixel_size_um(tiff), _channel_names(tiff)
            )
    except ImageUnfit:
        raise
    except Exception as error:
        raise ImageUnfit(f"{path}: damaged TIFF ({_one_line(error)}), {_EXPECTED}") from error
    if errors or is_incomplete:
        reason = errors[0] if errors else "planes are missing"
        raise ImageUnfit(f"{path}: damaged TIFF ({reason}), expected a whole file")
    return decoded


@contextmanager
def _tifffile_errors() -> Iterator[list[str]]:
    """Collect the errors that tifffile logs in this thread.

    It logs a truncated stack's missing pages and returns the first one as if it were all.
    """
    errors: list[str] = []
    thread = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                errors.append(_one_line(record.getMessage()))

    handler = Collect(logging.ERROR)
    _tifffile_log.addHandler(handler)
    try:
        yield errors
    finally:
        _tifffile_log.removeHandler(handler)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:200] or type(message).__name__


def _check(
    path: Path, shape: Sequence[int], dtype: np.dtype | None, own_axes: str, axes: str | None
) -> None:
    """Raise :class:`ImageUnfit` unless the pixels are one plane or a stack that was asked for."""
    if dtype is None or dtype.kind not in "biuf":
        raise ImageUnfit(f"{path}: pixels are {dtype}, expected integers or real floats")
    letters = axes or own_axes
    if len(letters) != len(shape):
        raise ImageUnfit(
            f"{path}: axes {letters} name {len(letters)} dimensions, the image has"
            f" {_describe(shape, own_axes)}"
        )
    described = _describe(shape, letters)
    long = {axis for axis, size in zip(letters, shape, strict=True) if size != 1}
    if unknown := long - set("TCZYXS"):
        raise ImageUnfit(
            f"{path}: the file does not label dimension {', '.join(sorted(unknown))} of"
            f" {described}; write the axes into the sheet, e.g. ZYX for a stack, CYX for channels"
        )
    if not set("YX") <= set(letters):
        raise ImageUnfit(f"{path}: {described}, expected at least Y and X")
    if "T" in long:
        raise ImageUnfit(f"{path}: {described} has several time points, expected one a file")
    if {"C", "S"} <= long:
        raise ImageUnfit(f"{path}: {described} has samples within channels, expected one of them")
    if "Z" in long and "Z" not in (axes or ""):
        raise ImageUnfit(
            f"{path}: {described} has several Z, expected one plane; write axes with Z, e.g. ZYX,"
            " into the sheet to segment the stack as one volume"
        )


def _drop_and_order(pixels: np.ndarray, letters: str) -> tuple[np.ndarray, str]:
    """Return checked pixels without axes of length 1, S as C, in the order CZYX."""
    kept = [index for index, axis in enumerate(letters) if axis in "YX" or pixels.shape[index] != 1]
    pixels = pixels.reshape([pixels.shape[index] for index in kept])
    letters = "".join(letters[index] for index in kept).replace("S", "C")
    order = [letters.index(axis) for axis in "CZYX" if axis in letters]
    return pixels.transpose(order), "".join(letters[index] for index in order)


def _pick_channel(
    path: Path, pixels: np.ndarray, letters: str, channel: int | str, names: Sequence[str]
) -> tuple[np.ndarray, str]:
    if "C" not in letters:
        pixels, letters = pixels[np.newaxis], f"C{letters}"
    count = len(pixels)
    known = names if len(names) == count else ()
    index = channel if isinstance(channel, int) else -1
    if isinstance(channel, str) and known.count(channel) == 1:
        index = known.index(channel)
    if not 0 <= index < count:
        named = f" or one of {', '.join(known)}" if known else "; the file names none"
        raise ImageUnfit(f"{path}: no channel {channel!r}, expected 0 to {count - 1}{named}")
    return pixels[index], letters[1:]


def _first_ome_pixels(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    if not tiff.ome_metadata:
        return None
    return ElementTree.fromstring(tiff.ome_metadata).find("{*}Image/{*}Pixels")


def _channel_names(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    pixels = _first_ome_pixels(tiff)
    if pixels is None:
        return ()
    return tuple(channel.get("Name", "") for channel in pixels.findall("{*}Channel"))


def _pixel_size_um(tiff: tifffile.TiffFile) -> float | None:
    if (pixels := _first_ome_pixels(tiff)) is not None:
        size = pixels.get("PhysicalSizeX")
        return _in_um(float(size), pixels.get("PhysicalSizeXUnit", "µm")) if size else None
    tags = tiff.pages.first.tags
    numerator, denominator = tags.valueof("XResolution", default=(0, 1))
    if not numerator:
        return None
    size_in_unit = denominator / numerator
    if tiff.is_imagej:
        metadata: dict[str, Any] = tiff.imagej_metadata or {}
        return _in_um(size_in_unit, str(metadata.get("unit", "")))
    unit = {2: "in", 3: "cm"}.get(int(tags.valueof("ResolutionUnit", default=1)), "")
    size_um = _in_um(size_in_unit, unit)
    return size_um if size_um is not None and size_um <= _COARSEST_TIFF_UM else None


def _in_um(size: float, unit: str) -> float | None:
    factor = _UM_PER_UNIT.get(unit)
    if factor is None or not math.isfinite(size) or size <= 0:
        return None
    return size * factor
