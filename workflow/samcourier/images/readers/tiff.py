"""TIFF, OME-TIFF, ImageJ: any compression, tiles, pyramids, BigTIFF; the scenes are its series."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from ...errors import ImageUnfit
from .base import Index, check_fits_memory, damaged, one_line, pick_scene, size_in_um

#: A plain TIFF with a coarser resolution (254 dpi) has that of a printer, not of a microscope.
_COARSEST_TIFF_UM = 100.0

# tifffile reports a damaged file in its log only; our errors quote it instead of the screen.
_tifffile_log = logging.getLogger("tifffile")
_tifffile_log.propagate = False
_tifffile_log.addHandler(logging.NullHandler())


class TiffSource:
    """One series of an open TIFF, at full size."""

    def __init__(
        self,
        path: Path,
        tiff: tifffile.TiffFile,
        series: tifffile.TiffPageSeries,
        image: ElementTree.Element | None,
    ) -> None:
        """``image`` is the OME element Pixels of the series, None where the file has none."""
        if series.dtype is None:
            raise ImageUnfit(
                f"{path}: the pixel type is not supported, expected integers or floats"
            )
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            raise ImageUnfit(f"{path}: a CMYK TIFF, whose values are inks, expected grey or RGB")
        self.axes: str = series.axes
        self._stored_shape: tuple[int, ...] = tuple(series.shape)
        self.shape = _without_alpha(series)
        self.dtype: np.dtype = series.dtype
        self.pixel_size_um = _pixel_size_um(tiff, image)
        self.z_spacing_um = _z_spacing_um(tiff, image)
        self.channel_names = _channel_names(image)
        self.scene_names = tuple(each.name for each in tiff.series)
        self._path = path
        self._tiff = tiff
        self._series = series
        self._is_incomplete = any(page is None for page in series.pages)

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``; see :class:`.base.Source`."""
        segment = self._series.keyframe.chunks
        check_fits_memory(self._path, math.prod(map(int, segment)) * self.dtype.itemsize)
        try:
            with _tifffile_errors() as errors:
                pixels = self._read(index)
        except Exception as error:
            raise damaged(self._path, "TIFF", error) from error
        if errors or self._is_incomplete:
            raise damaged(self._path, "TIFF", errors[0] if errors else "planes are missing")
        return pixels

    def _read(self, index: Index) -> np.ndarray:
        wanted = tuple(
            range(size)[part] if isinstance(part, slice) else part
            for part, size in zip(index, self.shape, strict=True)
        )
        # The samples of a pixel are adjacent in the file: read all, then drop alpha.
        stored = tuple(
            range(stored) if part == range(size) else part
            for part, size, stored in zip(wanted, self.shape, self._stored_shape, strict=True)
        )
        cut = tuple(slice(len(part)) for part in wanted if isinstance(part, range))
        return self._read_stored(stored)[cut]

    def _read_stored(self, wanted: Sequence[range | int]) -> np.ndarray:
        sizes = self._stored_shape
        if all(part == range(size) for part, size in zip(wanted, sizes, strict=True)):
            # asarray decodes segments in parallel, which reading in parts does not.
            return np.asarray(self._series.asarray())
        if self._plain_offset is not None:
            return self._read_plain(wanted, self._plain_offset)
        import zarr

        parts = (
            slice(part.start, part.stop, part.step) if isinstance(part, range) else part
            for part in wanted
        )
        with self._series.aszarr(level=0) as store:
            return np.asarray(zarr.open_array(store, mode="r")[tuple(parts)])

    @cached_property
    def _plain_offset(self) -> int | None:
        """Offset of the pixels in bytes if they are contiguous and uncompressed, else None."""
        return None if self._series.is_multifile else self._series.dataoffset

    def _read_plain(self, wanted: Sequence[range | int], offset: int) -> np.ndarray:
        """Read only the requested bytes; reading through zarr would read whole planes.

        A memory map is not used, because the process would die if the file were truncated.
        """
        ranges = [range(part, part + 1) if isinstance(part, int) else part for part in wanted]
        # Contiguous bytes: a range of one axis and the whole of all later axes.
        run = len(ranges) - 1
        while run > 0 and len(ranges[run]) == self._stored_shape[run]:
            run -= 1
        steps = [math.prod(self._stored_shape[axis + 1 :]) for axis in range(run + 1)]
        stored = self.dtype.newbyteorder(self._tiff.byteorder)
        pixels = np.empty([len(each) for each in ranges], stored)
        runs = pixels.reshape(math.prod(pixels.shape[:run]), -1)
        file = self._tiff.filehandle.fileno()
        starts = itertools.product(*ranges[:run], [ranges[run].start])
        for target, start in zip(runs, starts, strict=True):
            first = sum(index * step for index, step in zip(start, steps, strict=True))
            _read_exactly(file, target.data.cast("B"), offset + first * stored.itemsize)
        kept = [len(each) for each, part in zip(ranges, wanted, strict=True) if each is part]
        return pixels.reshape(kept)


def _read_exactly(file: int, target: memoryview, offset: int) -> None:
    """Fill ``target``, bytes, from ``offset`` of a file descriptor; Linux reads 2 GiB at most.

    Raises EOFError for a file that ends too early.
    """
    while target:
        count = os.preadv(file, [target], offset)
        if count == 0:
            raise EOFError(f"the file ends {len(target)} bytes too early")
        target, offset = target[count:], offset + count


@contextmanager
def open_tiff(path: Path, scene: int | str | None) -> Iterator[TiffSource]:
    """Open the requested series, by default the first if the others are not images.

    Raises ImageUnfit.
    """
    with ExitStack() as stack:
        try:
            with _tifffile_errors() as errors:
                tiff = stack.enter_context(tifffile.TiffFile(path))
                ome = ElementTree.fromstring(tiff.ome_metadata) if tiff.ome_metadata else None
                _check_companions(path, ome)
                series = tiff.series
                names = [each.name for each in series]
        except ImageUnfit:
            raise
        except Exception as error:
            raise damaged(path, "TIFF", error) from error
        if not series:
            raise ImageUnfit(f"{path}: a TIFF without an image, expected one")
        is_only_image = scene is None and all(
            _is_accessory(each, series[0], ome) for each in series[1:]
        )
        number = 0 if is_only_image else pick_scene(path, names, scene)
        if errors:
            raise damaged(path, "TIFF", errors[0])
        yield TiffSource(path, tiff, series[number], _ome_image(ome, number))


def _is_accessory(
    series: tifffile.TiffPageSeries, first: tifffile.TiffPageSeries, ome: object | None
) -> bool:
    """Return True if a series is a slide's label or thumbnail, not a second image.

    OME names each image; without OME a series smaller than the first counts as a thumbnail.
    """
    has_accessory_name = any(
        word in series.name.lower() for word in ("label", "macro", "thumbnail")
    )
    return has_accessory_name or (ome is None and math.prod(series.shape) < math.prod(first.shape))


def _check_companions(path: Path, ome: ElementTree.Element | None) -> None:
    """Raise ImageUnfit if OME metadata name files in other folders: tifffile would open them."""
    for part in [] if ome is None else ome.findall(".//{*}UUID"):
        name = part.get("FileName") or ""
        if "/" in name or "\\" in name:
            raise ImageUnfit(f"{path}: its planes lie in {name!r}, expected files beside it")


@contextmanager
def _tifffile_errors() -> Iterator[list[str]]:
    """Collect the errors that tifffile logs in this thread or zarr's during the block.

    tifffile only logs that pages of a truncated stack are missing, and returns the first page. If
    one of several files is missing, it only warns and returns zeros.
    """
    errors: list[str] = []
    threads = {threading.get_ident(), *_zarr_threads()}

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            is_loss = record.levelno >= logging.ERROR or "zeroed" in record.getMessage()
            if record.thread in threads and is_loss:
                errors.append(one_line(record.getMessage()))

    handler = Collect(logging.WARNING)
    _tifffile_log.addHandler(handler)
    try:
        yield errors
    finally:
        _tifffile_log.removeHandler(handler)


def _without_alpha(series: tifffile.TiffPageSeries) -> tuple[int, ...]:
    """Return the shape without the alpha samples, which come last."""
    extra = series.keyframe.extrasamples or ()
    alpha = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    count = len(extra) if all(each in alpha for each in extra) else 0
    return tuple(
        size - count if axis == "S" and size > count else size
        for axis, size in zip(series.axes, series.shape, strict=True)
    )


def _zarr_threads() -> set[int | None]:
    return {each.ident for each in threading.enumerate() if each.name.startswith("zarr")}


def _ome_image(ome: ElementTree.Element | None, number: int) -> ElementTree.Element | None:
    """Return the OME element Pixels of a series, None where the file has none."""
    found = [] if ome is None else ome.findall("{*}Image/{*}Pixels")
    return found[number] if number < len(found) else None


def _channel_names(image: ElementTree.Element | None) -> tuple[str, ...]:
    if image is None:
        return ()
    return tuple(channel.get("Name", "") for channel in image.findall("{*}Channel"))


def _ome_size_um(image: ElementTree.Element, axis: str) -> float | None:
    return _size_um(image.get(f"PhysicalSize{axis}"), image.get(f"PhysicalSize{axis}Unit", "µm"))


def _size_um(size: Any, unit: str) -> float | None:
    """Return a length from a file's metadata in micrometres, None when it is not a number."""
    try:
        return size_in_um(float(size), unit)
    except (TypeError, ValueError):
        return None


def _z_spacing_um(tiff: tifffile.TiffFile, image: ElementTree.Element | None) -> float | None:
    if image is not None:
        return _ome_size_um(image, "Z")
    metadata: dict[str, Any] = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    # ImageJ stores the unit of z only if it differs from that of x.
    unit = metadata.get("zunit", metadata.get("unit", ""))
    return _size_um(metadata.get("spacing"), str(unit))


def _pixel_size_um(tiff: tifffile.TiffFile, image: ElementTree.Element | None) -> float | None:
    if image is not None:
        return _ome_size_um(image, "X")
    tags = tiff.pages.first.tags
    numerator, denominator = tags.valueof("XResolution", default=(0, 1))
    if not numerator:
        return None
    size_in_unit = denominator / numerator
    if tiff.is_imagej:
        metadata: dict[str, Any] = tiff.imagej_metadata or {}
        return size_in_um(size_in_unit, str(metadata.get("unit", "")))
    unit = {2: "in", 3: "cm"}.get(int(tags.valueof("ResolutionUnit", default=1)), "")
    size_um = size_in_um(size_in_unit, unit)
    return size_um if size_um is not None and size_um <= _COARSEST_TIFF_UM else None
