"""TIFF, OME-TIFF, ImageJ: any compression, tiles, pyramids, BigTIFF; the scenes are its series."""

from __future__ import annotations

import copy
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
from .base import Index, check_fits_memory, damaged, one_line, pick_scene
from .ome_set import (
    OmeMetadata,
    check_files,
    image_xml,
    is_accessory_name,
    read_ome_metadata,
)
from .tiff_geometry import tiff_geometry
from .tiff_values import StoredValues, stored_values

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
        scene_names: Sequence[str],
        left_out: Sequence[str],
    ) -> None:
        """``image`` is the OME element Pixels of the series, None where the file has none."""
        self._values = stored_values(path, tiff, series)
        self._stored_shape: tuple[int, ...] = tuple(series.shape)
        self._stored_dtype: np.dtype = series.dtype
        self._stored_used = _without_alpha(series)
        samples = self._values.sample_count
        self.axes: str = series.axes + ("S" if samples else "")
        self.shape = self._stored_used + ((samples,) if samples else ())
        self.dtype = self._values.dtype(series.dtype)
        self.geometry = tiff_geometry(tiff, series, image)
        self.channel_names = _channel_names(image)
        self.scene_names = tuple(scene_names)
        self.left_out = tuple(left_out)
        self._path = path
        self._tiff = tiff
        self._series = series
        self._is_incomplete = any(page is None for page in series.pages)

    def with_indices(self) -> TiffSource:
        """Return the image with the indices of palette colours, which label images store."""
        if self._values.colours is None:
            return self
        labels = copy.copy(self)
        labels._values = StoredValues()
        labels.axes, labels.shape = self._series.axes, self._stored_used
        labels.dtype = self._stored_dtype
        return labels

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``; see :class:`.base.Source`."""
        segment = self._series.keyframe.chunks
        check_fits_memory(self._path, math.prod(map(int, segment)) * self._stored_dtype.itemsize)
        try:
            with _tifffile_errors() as errors:
                stored = self._read(index[: len(self._stored_shape)])
        except Exception as error:
            raise damaged(self._path, "TIFF", error) from error
        if errors or self._is_incomplete:
            raise damaged(self._path, "TIFF", errors[0] if errors else "planes are missing")
        return self._values.intensities(stored)[(..., *index[len(self._stored_shape) :])]

    def _read(self, index: Index) -> np.ndarray:
        wanted = tuple(
            range(size)[part] if isinstance(part, slice) else part
            for part, size in zip(index, self._stored_used, strict=True)
        )
        # The samples of a pixel are adjacent in the file: read all, then drop alpha.
        stored = tuple(
            range(stored) if part == range(size) else part
            for part, size, stored in zip(
                wanted, self._stored_used, self._stored_shape, strict=True
            )
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
        if (page := self._whole_page(wanted)) is not None:
            return np.asarray(page.asarray())
        import zarr

        parts = (
            slice(part.start, part.stop, part.step) if isinstance(part, range) else part
            for part in wanted
        )
        with self._series.aszarr(level=0) as store:
            return np.asarray(zarr.open_array(store, mode="r")[tuple(parts)])

    def _whole_page(
        self, wanted: Sequence[range | int]
    ) -> tifffile.TiffPage | tifffile.TiffFrame | None:
        """Return the page that holds exactly the requested pixels, None if none does.

        Its segments are decoded in parallel, which reading in parts does not.
        """
        own = self._series.keyframe.shape
        stack, within = self._stored_shape[: -len(own)], self._stored_shape[-len(own) :]
        numbers = [part for part in wanted[: len(stack)] if isinstance(part, int)]
        if (
            self._series.is_multifile
            or within != own
            or len(numbers) != len(stack)
            or math.prod(stack) != len(self._series.pages)
            or list(wanted[len(stack) :]) != [range(size) for size in own]
        ):
            return None
        return self._series.pages[int(np.ravel_multi_index(numbers, stack)) if stack else 0]

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
        stored = self._stored_dtype.newbyteorder(self._tiff.byteorder)
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
    """Open the requested image of a TIFF, or of the set of OME-TIFF files to which it belongs.

    By default that is the only image with planes in this file, besides those of a slide's label and
    thumbnail. Raises ImageUnfit, and ImageMissing when another file of the set is missing.
    """
    metadata = read_ome_metadata(path)
    with ExitStack() as stack:
        source = None
        if metadata is not None and (metadata.images or metadata.is_companion):
            source = _open_ome(path, metadata, scene, stack)
        yield source or _open_series(path, metadata, scene, stack)


def _open_ome(
    path: Path, metadata: OmeMetadata, scene: int | str | None, stack: ExitStack
) -> TiffSource | None:
    """Open an image that OME metadata describe, from the file that holds its first plane.

    None if it is the only one and the metadata do not fit the pages of the file.
    """
    names = [image.name for image in metadata.images]
    images = metadata.images_in(path)
    image = metadata.images[pick_scene(path, names, scene, images)]
    check_files(path, metadata, image)
    options: dict[str, Any] = {"omexml": image_xml(metadata, image), "is_ome": True}
    tiff, series = _opened_tiff(
        metadata.folder / image.files[0], stack, is_mmstack=False, **options
    )
    if len(series) == 1 and series[0].kind == "ome":
        left_out = [names[n] for n in metadata.scenes_in(path) if n not in images]
        return TiffSource(path, tiff, series[0], image.pixels, names, left_out)
    if len(metadata.images) == len(metadata.files) == 1 and not metadata.is_companion:
        return None
    raise ImageUnfit(
        f"{path}: its OME metadata do not fit the pages of {image.files[0]}, expected an image of"
        " the size that they say"
    )


def _open_series(
    path: Path, metadata: OmeMetadata | None, scene: int | str | None, stack: ExitStack
) -> TiffSource:
    """Open a series of a TIFF whose pages no OME metadata describe."""
    tiff, series = _opened_tiff(path, stack)
    if not series:
        raise ImageUnfit(f"{path}: a TIFF without an image, expected one")
    names = [each.name for each in series]
    images = [
        number
        for number, each in enumerate(series)
        if not (is_accessory_name(each.name) or _is_smaller(each, series[0]))
    ] or list(range(len(series)))
    number = pick_scene(path, names, scene, images)
    left_out = [name or f"series {n}" for n, name in enumerate(names) if n not in images]
    described = [] if metadata is None else metadata.root.findall("{*}Image/{*}Pixels")
    pixels = described[0] if len(described) == len(series) == 1 else None
    return TiffSource(path, tiff, series[number], pixels, names, left_out)


def _opened_tiff(
    path: Path, stack: ExitStack, **options: Any
) -> tuple[tifffile.TiffFile, list[tifffile.TiffPageSeries]]:
    """Open a file and its series; ``stack`` closes it. Raises ImageUnfit if it is damaged."""
    try:
        with _tifffile_errors() as errors:
            tiff = stack.enter_context(tifffile.TiffFile(path, **options))
            series = tiff.series
    except Exception as error:
        raise damaged(path, "TIFF", error) from error
    if errors:
        raise damaged(path, "TIFF", errors[0])
    return tiff, series


def _is_smaller(series: tifffile.TiffPageSeries, first: tifffile.TiffPageSeries) -> bool:
    """Return True for a smaller series than the first, which counts as a thumbnail without OME."""
    return math.prod(series.shape) < math.prod(first.shape)


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


def _channel_names(image: ElementTree.Element | None) -> tuple[str, ...]:
    if image is None:
        return ()
    return tuple(channel.get("Name", "") for channel in image.findall("{*}Channel"))
