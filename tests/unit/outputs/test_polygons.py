"""Polygons along pixel edges: valid, of the area of their pixels, in QuPath's GeoJSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samcourier.images.geometry import Geometry
from samcourier.outputs.polygons import features, label_polygons, write_collection


def drawn(*rows: str) -> np.ndarray:
    """Return a mask of one digit a pixel, "." for background."""
    return np.array([[int(each.replace(".", "0")) for each in row] for row in rows], np.uint32)


def geometry(polygons: Sequence[Sequence[Any]]) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([(polygon[0], polygon[1:]) for polygon in polygons])


RING = drawn(".....", ".111.", ".1.1.", ".111.", ".....")
HELD_BY_A_CORNER = drawn("111", "1.1", "11.")
TWO_HOLES_THAT_TOUCH = drawn("1111", "1.11", "11.1", "1111")
FILLED = drawn("222", "212", "222")
APART = drawn("1..", "...", "..1")
DIAGONAL = drawn("1.", ".1")


@pytest.mark.parametrize(
    ("mask", "number", "parts", "holes", "area"),
    [
        (drawn("1"), 1, 1, 0, 1),
        (RING, 1, 1, 1, 8),
        (HELD_BY_A_CORNER, 1, 1, 1, 7),
        (TWO_HOLES_THAT_TOUCH, 1, 1, 2, 14),
        (FILLED, 2, 1, 1, 8),
        (FILLED, 1, 1, 0, 1),
        (APART, 1, 2, 0, 2),
        (DIAGONAL, 1, 2, 0, 2),
        (np.full((2, 3), 2**32 - 1, np.uint32), 2**32 - 1, 1, 0, 6),
    ],
)
def test_parts_and_holes_are_told_apart(
    mask: np.ndarray, number: int, parts: int, holes: int, area: int
) -> None:
    polygons = label_polygons(mask)[number]
    assert len(polygons) == parts
    assert sum(len(polygon) - 1 for polygon in polygons) == holes
    assert geometry(polygons).area == area


def test_corners_lie_on_pixel_edges_and_only_where_the_outline_turns() -> None:
    mask = np.zeros((6, 9), np.uint32)
    mask[1:3, 4:8] = 5
    assert sorted(label_polygons(mask)[5][0][0]) == [(4, 1), (4, 3), (8, 1), (8, 3)]


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.uint32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)
    )
)
def test_every_polygon_is_valid_and_has_the_area_of_its_pixels(mask: np.ndarray) -> None:
    found = label_polygons(mask)
    assert set(found) == set(np.unique(mask).tolist()) - {0}
    for number, polygons in found.items():
        shape = geometry(polygons)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == np.count_nonzero(mask == number)
        y, x = np.nonzero(mask == number)
        assert shapely.contains_xy(shape, x + 0.5, y + 0.5).all()


def test_the_file_is_geojson_with_what_qupath_reads() -> None:
    stream = io.StringIO()
    write_collection(
        stream,
        "k" * 64,
        Geometry.unknown("YX"),
        features(np.maximum(RING, 3 * APART.repeat(5, 0)[:5, [0] * 5]), {"Z": 4}, None),
    )
    content = json.loads(stream.getvalue())
    assert content["type"] == "FeatureCollection"
    unknown = {"unit": None, "scale": None, "translation": None}
    axes = [{"axis": "y", **unknown}, {"axis": "x", **unknown}]
    assert content["samcourier"] == {"key": "k" * 64, "axes": axes}
    for feature in content["features"]:
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["name"] == str(feature["properties"]["id"])
        assert feature["geometry"]["plane"] == {"c": -1, "z": 4, "t": 0}
        read = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert read.is_valid
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]


def test_several_parts_are_one_feature() -> None:
    (text,) = features(APART, {}, None)
    assert shapely.from_geojson(json.dumps(json.loads(text)["geometry"])).area == 2
    assert json.loads(text)["geometry"]["type"] == "MultiPolygon"


def test_an_empty_mask_has_no_feature() -> None:
    stream = io.StringIO()
    write_collection(
        stream, "k", Geometry.unknown("YX"), features(np.zeros((3, 4), np.uint32), {}, None)
    )
    assert json.loads(stream.getvalue())["features"] == []
