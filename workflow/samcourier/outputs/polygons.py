"""Convert labels to polygons along pixel edges, as GeoJSON that QuPath imports.

Coordinates are (x, y) in pixels of the image. The first pixel covers 0 to 1, so the area of a
polygon is its number of pixels. Decision 0012 states why no library does this.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TextIO

import numpy as np
from skimage.measure import label

from ..images.geometry import Geometry

#: Corners (x, y) in order, the first not repeated.
Ring = list[tuple[int, int]]
#: The outer ring, then the holes. Rings of one polygon meet in points only.
Polygon = list[Ring]


def label_polygons(mask: np.ndarray) -> dict[int, list[Polygon]]:
    """Return the polygons of each id of ``mask``, (Y, X), one for each 4-connected part."""
    parts = label(mask, connectivity=1, background=0)
    y, x, part, order_in_row, order_in_column = _corners(parts)
    found: defaultdict[int, list[Polygon]] = defaultdict(list)
    if not len(y):
        return {}
    # Along a row the corners of one part pair up to edges, along a column too (they alternate
    # between inside and outside), so the way around is: row partner, column partner, and again.
    by_row = np.lexsort((order_in_row, x, y, part))
    y, x, part, order_in_column = (each[by_row] for each in (y, x, part, order_in_column))
    by_column = np.lexsort((order_in_column, y, x, part))
    down = np.empty_like(by_column)
    down[by_column[0::2]], down[by_column[1::2]] = by_column[1::2], by_column[0::2]
    # In row order corner i's partner is i ^ 1. The first corner of a part is on its outer ring.
    firsts = np.flatnonzero(np.diff(part, prepend=-1))
    # It is the upper left corner of one of the part's pixels.
    ids, starts = mask[y[firsts], x[firsts]].tolist(), firsts.tolist()
    ends = [*starts[1:], len(part)]
    x_list, y_list, down_list = x.tolist(), y.tolist(), down.tolist()
    seen = bytearray(len(part))
    for number, start, end in zip(ids, starts, ends, strict=True):
        rings: Polygon = []
        for first in range(start, end):
            if seen[first]:
                continue
            ring: Ring = []
            at = first
            while not seen[at]:
                across = at ^ 1
                seen[at] = seen[across] = 1
                ring += [(x_list[at], y_list[at]), (x_list[across], y_list[across])]
                at = down_list[across]
            rings.append(ring)
        found[number].append(rings)
    return dict(found)


def _corners(parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return y, x and part of each corner, and the order of two corners in one place.

    Where two pixels of one part touch only diagonally, two corners have the same place. The last
    two arrays order them along the row and along the column, so that each ring goes around one of
    the pixels outside of the part: rings then touch there and do not cross.
    """
    padded = np.pad(parts, 1)
    around = {
        (dy, dx): padded[dy : padded.shape[0] - 1 + dy, dx : padded.shape[1] - 1 + dx]
        for dy in (0, 1)
        for dx in (0, 1)
    }
    columns: list[tuple[np.ndarray, ...]] = []
    for (dy, dx), here in around.items():
        beside = around[dy, 1 - dx] == here
        above = around[1 - dy, dx] == here
        across = around[1 - dy, 1 - dx] == here
        is_corner = (here > 0) & ((~beside & ~above) | (beside & above & ~across))
        y, x = np.nonzero(is_corner)
        in_row = np.full(len(y), dx, np.int8)
        in_column = np.full(len(y), 1 - dy, np.int8)
        columns.append((y, x, here[y, x], in_row, in_column))
    return tuple(np.concatenate(each) for each in zip(*columns, strict=True))


def features(
    mask: np.ndarray, plane: Mapping[str, int], pixel_um2: Fraction | None
) -> Iterator[str]:
    """Yield each object of ``mask`` as the text of a GeoJSON feature, in the order of ids.

    Args:
        mask: Integer labels, (Y, X).
        plane: Position of the mask in the image's file: QuPath's ``z`` and ``t``.
        pixel_um2: Area of a pixel; None if unknown.
    """
    ids, counts = np.unique(mask, return_counts=True)
    area_px = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    for number, polygons in sorted(label_polygons(mask).items()):
        closed = [[[*ring, ring[0]] for ring in polygon] for polygon in polygons]
        is_one = len(closed) == 1
        feature = {
            "type": "Feature",
            "geometry": {
                "type": "Polygon" if is_one else "MultiPolygon",
                "coordinates": closed[0] if is_one else closed,
                "plane": {"c": -1, "z": plane.get("Z", 0), "t": plane.get("T", 0)},
            },
            "properties": {
                **{"objectType": "detection", "name": str(number), "id": number},
                "area_um2": None if pixel_um2 is None else float(area_px[number] * pixel_um2),
            },
        }
        yield json.dumps(feature, separators=(",", ":"))


def write_collection(stream: TextIO, key: str, geometry: Geometry, texts: Iterable[str]) -> None:
    """Write the features as one FeatureCollection, with key and geometry of their mask."""
    about = json.dumps({"key": key, "axes": geometry.record()})
    stream.write(f'{{"type":"FeatureCollection","samcourier":{about}')
    stream.write(',"features":[')
    for number, text in enumerate(texts):
        stream.write(",\n" if number else "\n")
        stream.write(text)
    stream.write("\n]}\n")
