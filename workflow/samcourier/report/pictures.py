"""Small pictures of the images, with outlines that can be taken off, within a bound of bytes."""

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
from ..images.planes import open_planes
from ..masks.omezarr import read_mask
from ..results.image_log import ImageLog
from ..results.layout import find_mask, output_path
from ..samples.sheet import ImageRow

if TYPE_CHECKING:
    from ..outputs.previews import Preview

#: All pictures in the page together; beyond it the page refers to the previews' files.
MOST_BYTES = 8 << 20
#: So many are made at most: each takes some 10 ms.
MOST_EMBEDDED = 300
#: Few are shown large, many small.
FEW = 48
_FEW_EDGE_PX, _MANY_EDGE_PX = 512, 224
#: Without previews, pictures are made of the images again: of so many, of this size, at most.
_MOST_REREAD = 48
_MOST_REREAD_PIXELS = 4 << 20
_JPEG_QUALITY = 82
_OUTLINE = (255, 214, 0)


@dataclass(frozen=True)
class Picture:
    """Data URIs of an image without outlines and of the outlines alone, on nothing."""

    base: str
    outlines: str


@dataclass(frozen=True)
class Pictures:
    """What the page can show: ``embedded`` and ``linked`` hold ids of images.

    ``source`` says what the pictures were made of, None where there are none.
    """

    embedded: dict[str, Picture] = field(default_factory=dict)
    linked: frozenset[str] = frozenset()
    source: Literal["previews", "images"] | None = None


def collect_pictures(
    rows: Sequence[ImageRow], outcomes: Sequence[Outcome], dataset_dir: Path
) -> Pictures:
    """Return pictures of the images that have a mask, evenly spread where not all fit.

    A picture that cannot be made is left out: a report comes out whatever the files are like.
    """
    done = [
        (row, outcome.log)
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome.status == "done" and outcome.log is not None
    ]
    linked = [row.image for row, log in done if _has_preview(log)]
    if linked:
        chosen = spread(linked, MOST_EMBEDDED)
        edge_px = _FEW_EDGE_PX if len(chosen) <= FEW else _MANY_EDGE_PX
        found = ((name, _from_preview(dataset_dir, name)) for name in chosen)
        return Pictures(_within_bytes(found, edge_px), frozenset(linked), "previews")
    if not done or len(done) > _MOST_REREAD or find_spec("skimage") is None:
        return Pictures()
    found = ((row.image, _from_image(dataset_dir, row, log)) for row, log in done)
    embedded = _within_bytes(found, _FEW_EDGE_PX)
    return Pictures(embedded, source="images" if embedded else None)


def spread(names: Sequence[str], most: int) -> list[str]:
    """Return at most ``most`` of the names, evenly spaced, in their order."""
    if len(names) <= most:
        return list(names)
    return [names[number * len(names) // most] for number in range(most)]


def _has_preview(log: ImageLog) -> bool:
    record = log.outputs.get("preview")
    return record is not None and record.refused is None


def _within_bytes(
    previews: Iterable[tuple[str, Preview | None]], edge_px: int
) -> dict[str, Picture]:
    embedded: dict[str, Picture] = {}
    left_bytes = MOST_BYTES
    for name, found in previews:
        if found is None:
            continue
        picture = encode(found.base, found.outlines, edge_px)
        left_bytes -= len(picture.base) + len(picture.outlines)
        if left_bytes < 0:
            break
        embedded[name] = picture
    return embedded


def _from_preview(dataset_dir: Path, image: str) -> Preview | None:
    from ..outputs.previews import read_png

    try:
        return read_png(output_path(dataset_dir, image, "preview").read_bytes())
    # Of a damaged file anything may be raised.
    except Exception:
        return None


def _from_image(dataset_dir: Path, row: ImageRow, log: ImageLog) -> Preview | None:
    """Make the picture again of a small image of one plane that is still the one segmented."""
    from ..outputs.previews import preview

    try:
        with open_planes(row.path, row.selection) as planes:
            is_small = np.prod(planes.shape) <= _MOST_REREAD_PIXELS
            if not is_small or planes.stack_axes or "Z" in planes.axes:
                return None
            plane = planes.read(0)
        if plane.pixels_sha256 != log.pixels_sha256:
            return None
        return preview(plane.pixels, read_mask(find_mask(dataset_dir, row.image)))
    # The image may be gone or changed since.
    except Exception:
        return None


def encode(base: np.ndarray, outlines: np.ndarray, edge_px: int) -> Picture:
    """Return the picture, (Y, X, 3) uint8, and its outlines, (Y, X) bool, as data URIs.

    Both are shrunk by a whole number so that no edge is longer than ``edge_px``; an outline stays
    one pixel wide.
    """
    step = -(-max(outlines.shape) // edge_px)
    if step > 1 and min(outlines.shape) >= step:
        # Summed part by part, which is several times as fast as a mean over blocks.
        base = (sum(each.astype(np.uint32) for each in _parts(base, step)) // step**2).astype("u1")
        outlines = np.logical_or.reduce(_parts(outlines, step))
    coloured = np.zeros((*outlines.shape, 4), np.uint8)
    coloured[outlines] = (*_OUTLINE, 255)
    return Picture(
        _data_uri("jpeg", imagecodecs.jpeg8_encode(base, level=_JPEG_QUALITY)),
        _data_uri("png", imagecodecs.png_encode(coloured, level=9)),
    )


def _parts(pixels: np.ndarray, step: int) -> list[np.ndarray]:
    """Return the first pixel of each block of ``step`` x ``step``, its second, and so on."""
    rows, columns = (size - size % step for size in pixels.shape[:2])
    return [
        pixels[row:rows:step, column:columns:step] for row in range(step) for column in range(step)
    ]


def _data_uri(kind: str, content: bytes | bytearray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
