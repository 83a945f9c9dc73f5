"""How many files a run will make, said before it starts: file systems have inode quotas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean

from .dataset import ImageRow
from .errors import CourierError
from .masks import OmeZarrVersion, chunk_shape, level_shapes
from .planes import open_planes
from .store import OUTPUT_FILES, MaskContainer

#: So many images are opened, without a pixel of them, to tell how many files a mask has.
LOOKED_AT = 10
#: A mask that fits one chunk and has one level.
_SMALLEST_PX = (1, 1)


def files_of_mask(shape: Sequence[int], ome_zarr: OmeZarrVersion) -> int:
    """Return the files and folders of a mask that is a folder; each is an inode."""
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


def files_ahead(
    rows: Sequence[ImageRow],
    batch_count: int,
    container: MaskContainer,
    ome_zarr: OmeZarrVersion,
    outputs: Collection[str],
) -> str:
    """Return a sentence on the files and folders that these rows will take in the results folder.

    A few of the images are opened for their size, as far as they are there yet.
    """
    others = len(rows) * (1 + len(OUTPUT_FILES.keys() & set(outputs))) + 4 * batch_count
    shapes = [shape for row in _some(rows) if (shape := _mask_shape(row)) is not None]
    in_folders = fmean(files_of_mask(shape, ome_zarr) for shape in shapes or [_SMALLEST_PX])
    each = 1 if container == "zip" else in_folders
    count = round(len(rows) * each) + others
    at_least = "at least" if not shapes and container == "folder" else "about"
    said = f"{len(rows)} images make {at_least} {count} files and folders"
    if "input_labels" in outputs:
        said += f", and about {round(len(rows) * in_folders)} in their inputs"
    if container == "folder" and shapes:
        said += f"; with mask_container: zip about {len(rows) + others}"
    return said


def _some(rows: Sequence[ImageRow]) -> Sequence[ImageRow]:
    """Return rows from all over the sheet: neighbours tend to be alike."""
    return rows[:: -(-len(rows) // LOOKED_AT) or 1]


def _mask_shape(row: ImageRow) -> tuple[int, ...] | None:
    """Return None for an image that is not there yet or cannot be read: its batch will tell."""
    try:
        with open_planes(Path(row.path), row.selection) as planes:
            return planes.mask_shape
    except CourierError:
        return None
