"""Make small pictures of the images, with separate outlines, up to a total number of bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import imagecodecs
import numpy as np

from ..evaluation.outcome import Outcome
from ..images.geometry import sizes_of_sheet
from ..images.planes import open_planes
from ..masks.omezarr import read_mask
from ..results.image_log import ImageLog
from ..results.layout import find_mask, output_path
from ..samples.sheet import ImageRow

if TYPE_CHECKING:
    from ..outputs.previews import Preview

#: Limit for all pictures in the page together; the page refers to the preview files of the others.
MAX_TOTAL_BYTES = 8 << 20
#: Limit for the number of pictures in the page, since each takes about 10 ms to make.
MAX_EMBEDDED = 300
#: Up to this number, pictures are embedded large, else small.
MAX_LARGE = 48
_LARGE_EDGE_PX, _SMALL_EDGE_PX = 512, 224
#: Without previews, pictures are made from the images again, up to this number and size of images.
_MAX_REREAD_IMAGES = 48
_MAX_REREAD_PIXELS = 4 << 20
_JPEG_QUALITY = 82
_OUTLINE = (255, 214, 0)


@dataclass(frozen=True)
class Picture:
    """Data URIs of an image without outlines, and of its outlines on a transparent background."""

    base: str
    outlines: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page.

    ``embedded`` has the pictures in the page by image id, ``linked`` the ids of the images with a
    preview file. ``source`` says what the pictures were made from, None without pictures.
    """

    embedded: dict[str, Picture] = field(default_factory=dict)
    linked: frozenset[str] = frozenset()
    source: Literal["previews", "images"] | None = None


def collect_pictures(
    rows: Sequence[ImageRow], outcomes: Sequence[Outcome], dataset_dir: Path
) -> Pictures:
    """Return pictures of the images that have a mask, or of an even selection if not all fit.

    ``rows`` and ``outcomes`` have the same order. A picture that cannot be made is left out, so
    that damaged files never prevent a report.
    """
    done = [
        (row, outcome.log)
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome.status == "done" and outcome.log is not None
    ]
    linked = [row.image for row, log in done if _has_preview(log)]
    if linked:
        chosen = evenly_spaced(linked, MAX_EMBEDDED)
        edge_px = _LARGE_EDGE_PX if len(chosen) <= MAX_LARGE else _SMALL_EDGE_PX
        found = ((name, _from_preview(dataset_dir, name)) for name in chosen)
        return Pictures(_within_bytes(found, edge_px), frozenset(linked), "previews")
    if not done or len(done) > _MAX_REREAD_IMAGES or find_spec("skimage") is None:
        return Pictures()
    found = ((row.image, _from_image(dataset_dir, row, log)) for row, log in done)
    embedded = _within_bytes(found, _LARGE_EDGE_PX)
    return Pictures(embedded, source="images" if embedded else None)


def evenly_spaced(names: Sequence[str], max_count: int) -> list[str]:
    """Return at most ``max_count`` of the names, evenly spaced, in their order."""
    if len(names) <= max_count:
        return list(names)
    return [names[number * len(names) // max_count] for number in range(max_count)]


def _has_preview(log: ImageLog) -> bool:
    record = log.outputs.get("preview")
    return record is not None and record.refused is None


def _within_bytes(
    previews: Iterable[tuple[str, Preview | None]], edge_px: int
) -> dict[str, Picture]:
    embedded: dict[str, Picture] = {}
    free_bytes = MAX_TOTAL_BYTES
    for name, found in previews:
        if found is None:
            continue
        picture = encode(found.base, found.outlines, edge_px)
        free_bytes -= len(picture.base) + len(picture.outlines)
        if free_bytes < 0:
            break
        embedded[name] = picture
    return embedded


def _from_preview(dataset_dir: Path, image: str) -> Preview | None:
    from ..outputs.previews import read_png

    try:
        return read_png(output_path(dataset_dir, image, "preview").read_bytes())
    # A damaged file can make the reader raise any error.
    except Exception:
        return None


def _from_image(dataset_dir: Path, row: ImageRow, log: ImageLog) -> Preview | None:
    """Make the picture of a small image of one plane, None if it changed since its segmentation."""
    from ..outputs.previews import preview

    try:
        with open_planes(row.path, row.selection) as planes:
            is_small = np.prod(planes.shape) <= _MAX_REREAD_PIXELS
            if not is_small or planes.stack_axes or "Z" in planes.axes:
                return None
            plane = planes.read(0)
            geometry = planes.geometry.with_sizes_um(sizes_of_sheet(row.pixel_size_um))
        if plane.pixels_sha256 != log.pixels_sha256:
            return None
        mask = read_mask(find_mask(dataset_dir, row.image))
        return preview(plane.pixels, mask, geometry.sizes_um("YX"))
    # The image may have been deleted or damaged since.
    except Exception:
        return None


def encode(base: np.ndarray, outlines: np.ndarray, edge_px: int) -> Picture:
    """Return a picture and its outlines as data URIs.

    Both are shrunk by a whole factor so that no edge is longer than ``edge_px``; an outline stays
    one pixel wide.

    Args:
        base: The image, (Y, X, 3) uint8.
        outlines: True where an object has its outline, (Y, X) bool.
        edge_px: The longest allowed edge in pixels.
    """
    step = -(-max(outlines.shape) // edge_px)
    if step > 1 and min(outlines.shape) >= step:
        # Adding strided views is several times as fast as a mean over blocks.
        views = _strided_views(base, step)
        base = (sum(each.astype(np.uint32) for each in views) // step**2).astype("u1")
        outlines = np.logical_or.reduce(_strided_views(outlines, step))
    coloured = np.zeros((*outlines.shape, 4), np.uint8)
    coloured[outlines] = (*_OUTLINE, 255)
    return Picture(
        _data_uri("jpeg", imagecodecs.jpeg8_encode(base, level=_JPEG_QUALITY)),
        _data_uri("png", imagecodecs.png_encode(coloured, level=9)),
    )


def _strided_views(pixels: np.ndarray, step: int) -> list[np.ndarray]:
    """Return step² views: the first pixel of each ``step`` x ``step`` block, the second, ..."""
    rows, columns = (size - size % step for size in pixels.shape[:2])
    return [
        pixels[row:rows:step, column:columns:step] for row in range(step) for column in range(step)
    ]


def _data_uri(kind: str, content: bytes | bytearray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
