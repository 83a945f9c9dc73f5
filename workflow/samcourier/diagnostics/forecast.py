"""Forecast how many files a run will make, since file systems have inode quotas."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..errors import CourierError
from ..images.planes import open_planes
from ..masks.integrity import MaskContainer, OmeZarrVersion
from ..masks.zarr_format import chunk_shape, level_shapes
from ..results.layout import OUTPUT_FILES
from ..samples.sheet import ImageRow

#: Number of images that are opened, without reading pixels, to find the files of a mask.
SAMPLE_SIZE = 10
#: The shape of a mask with one chunk and one level.
_SMALLEST_PX = (1, 1)


def files_of_mask(shape: Sequence[int], ome_zarr: OmeZarrVersion) -> int:
    """Return the number of files and folders (inodes) of a mask that is a folder."""
    is_v2 = ome_zarr == "0.4"
    count = 3 if is_v2 else 2
    for level in level_shapes(tuple(shape)):
        grid = [-(-size // chunk) for size, chunk in zip(level, chunk_shape(level), strict=True)]
        # The array's folder and metadata, version 3's folder c, then a folder for each index
        # but the last, at every depth, and the chunks.
        count += 3
        inodes = 1
        for size in grid:
            inodes *= size
            count += inodes
    return count


@dataclass(frozen=True)
class Forecast:
    """The expected results of a run: number of files and folders, and size of a mask.

    ``sampled_count`` images were tried; ``mask_pixels`` and ``image_bytes`` are means over those
    that could be opened, None if none could. ``unopened`` has the reason for each of the others.
    """

    images: int
    files: int
    files_in_inputs: int
    files_as_zip: int | None
    is_least: bool
    mask_pixels: float | None
    image_bytes: float | None
    sampled_count: int
    unopened: tuple[str, ...]

    def __str__(self) -> str:
        at_least = "at least" if self.is_least else "about"
        text = f"{self.images} images make {at_least} {self.files} files and folders"
        if self.files_in_inputs:
            text += f", and about {self.files_in_inputs} in their inputs"
        if self.files_as_zip is not None:
            text += f"; with mask_container: zip about {self.files_as_zip}"
        return text


def forecast_files(
    rows: Sequence[ImageRow],
    batch_count: int,
    container: MaskContainer,
    ome_zarr: OmeZarrVersion,
    outputs: Collection[str],
) -> Forecast:
    """Return the forecast for ``rows``; as text it is a sentence on files and folders.

    A few of the images that already exist are opened for their size.
    """
    others = len(rows) * (1 + len(OUTPUT_FILES.keys() & set(outputs))) + 4 * batch_count
    results = [_read_size(row) for row in _sample(rows)]
    sizes = [result for result in results if isinstance(result, _Size)]
    shapes = [size.mask_shape for size in sizes]
    in_folders = fmean(files_of_mask(shape, ome_zarr) for shape in shapes or [_SMALLEST_PX])
    each = 1 if container == "zip" else in_folders
    return Forecast(
        images=len(rows),
        files=round(len(rows) * each) + others,
        files_in_inputs=round(len(rows) * in_folders) if "input_labels" in outputs else 0,
        files_as_zip=len(rows) + others if container == "folder" and shapes else None,
        is_least=not shapes and container == "folder",
        mask_pixels=fmean(math.prod(shape) for shape in shapes) if shapes else None,
        image_bytes=fmean(size.image_bytes for size in sizes) if sizes else None,
        sampled_count=len(results),
        unopened=tuple(result for result in results if isinstance(result, str)),
    )


@dataclass(frozen=True)
class _Size:
    mask_shape: tuple[int, ...]
    image_bytes: int


def _sample(rows: Sequence[ImageRow]) -> Sequence[ImageRow]:
    """Return rows evenly spaced over the sheet, since neighbours tend to be alike."""
    return rows[:: -(-len(rows) // SAMPLE_SIZE) or 1]


def _read_size(row: ImageRow) -> _Size | str:
    """Return the size, or the reason why the image cannot be opened yet; its batch reports that."""
    try:
        with open_planes(row.path, row.selection) as planes:
            return _Size(planes.mask_shape, math.prod(planes.shape) * planes.dtype.itemsize)
    except CourierError as error:
        return str(error)
