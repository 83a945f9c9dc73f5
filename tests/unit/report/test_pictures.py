"""Tests of the pictures in the report: their limits, their selection, and their sources."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from msgspec import structs

from samcourier.evaluation.outcome import Outcome
from samcourier.masks.omezarr import write_mask
from samcourier.outputs.previews import png, preview
from samcourier.report import pictures as pictures_module
from samcourier.report.images import table_data
from samcourier.report.pictures import Picture, Pictures, collect_pictures, encode, evenly_spaced
from samcourier.results.image_log import ImageLog, ImageSeconds, OutputRecord
from samcourier.samples.sheet import ImageRow
from samservice.contract.image_reference import pixels_sha256

from ..conftest import squares

PIXELS = (np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 7) % 501


def decoded(uri: str) -> np.ndarray:
    return np.asarray(imagecodecs.imread(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture
def segmented(tmp_path: Path) -> tuple[ImageRow, Outcome]:
    """Return an image of 32 x 32 pixels with a mask of three objects, and its outcome."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS)
    write_mask(tmp_path / "masks" / "a.ome.zarr", squares(3), "YX", provenance={"key": "k"})
    log = ImageLog(
        image="a",
        path=str(path),
        status="done",
        finished_at="2026-03-01T10:00:00Z",
        seconds=ImageSeconds(total=1),
        pixels_sha256=pixels_sha256(PIXELS, "YX"),
    )
    return ImageRow("a", path), Outcome("a", "0001", "done", None, "k", None, log)


def collected(segmented: tuple[ImageRow, Outcome], **changes: Any) -> Pictures:
    row, outcome = segmented
    assert outcome.log is not None
    outcome = replace(outcome, log=structs.replace(outcome.log, **changes))
    return collect_pictures([row], [outcome], row.path.parent)


def test_without_previews_pictures_of_a_few_small_images_are_made_from_the_images(
    segmented: tuple[ImageRow, Outcome],
) -> None:
    found = collected(segmented)
    assert found.source == "images"
    outlines = decoded(found.embedded["a"].outlines)
    np.testing.assert_array_equal(outlines[..., 3] > 0, preview(PIXELS, squares(3)).outlines)
    assert decoded(found.embedded["a"].base).shape == (32, 32, 3)


def test_an_image_that_changed_after_its_segmentation_has_no_picture(
    segmented: tuple[ImageRow, Outcome],
) -> None:
    assert collected(segmented, pixels_sha256="0" * 64) == Pictures()


def test_many_images_without_previews_have_no_pictures(
    segmented: tuple[ImageRow, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures_module, "_MAX_REREAD_IMAGES", 0)
    assert collected(segmented) == Pictures()


def test_a_preview_is_embedded_and_linked(segmented: tuple[ImageRow, Outcome]) -> None:
    row, _ = segmented
    path = row.path.parent / "previews" / "a.png"
    path.parent.mkdir()
    path.write_bytes(png(preview(PIXELS, squares(3))))
    row.path.unlink()
    found = collected(segmented, outputs={"preview": OutputRecord("0" * 16)})
    assert (found.source, found.linked, list(found.embedded)) == ("previews", {"a"}, ["a"])
    path.write_bytes(b"no PNG")
    assert collected(segmented, outputs={"preview": OutputRecord("0" * 16)}).embedded == {}


def test_previews_are_embedded_without_scikit_image(
    segmented: tuple[ImageRow, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = segmented
    path = row.path.parent / "previews" / "a.png"
    path.parent.mkdir()
    path.write_bytes(png(preview(PIXELS, squares(3))))
    monkeypatch.delitem(sys.modules, "samcourier.outputs.previews")
    for name in ("skimage", "skimage.segmentation", "skimage.transform"):
        monkeypatch.setitem(sys.modules, name, None)
    assert list(collected(segmented, outputs={"preview": OutputRecord("0" * 16)}).embedded) == ["a"]


def test_the_total_size_of_all_pictures_is_limited(
    segmented: tuple[ImageRow, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = collected(segmented).embedded["a"]
    monkeypatch.setattr(pictures_module, "MAX_TOTAL_BYTES", len(one.base) + len(one.outlines) - 1)
    assert collected(segmented).embedded == {}


@pytest.mark.parametrize(
    ("shape", "edge_px", "expected"),
    [((32, 32), 32, (32, 32)), ((100, 60), 50, (50, 30)), ((101, 60), 50, (33, 20))],
)
def test_a_picture_and_its_outlines_are_shrunk_to_the_same_size(
    shape: tuple[int, int], edge_px: int, expected: tuple[int, int]
) -> None:
    outlines = np.zeros(shape, bool)
    outlines[:, 10] = True
    picture = encode(np.full((*shape, 3), 90, np.uint8), outlines, edge_px)
    drawn = decoded(picture.outlines)[..., 3] > 0
    assert decoded(picture.base).shape[:2] == drawn.shape == expected
    assert drawn.sum() == expected[0]


@pytest.mark.parametrize(
    ("count", "max_count", "expected"), [(3, 5, "012"), (4, 2, "02"), (10, 3, "036"), (0, 3, "")]
)
def test_selected_names_are_evenly_spaced(count: int, max_count: int, expected: str) -> None:
    assert evenly_spaced([str(number) for number in range(count)], max_count) == list(expected)


def test_the_page_data_has_the_source_of_each_picture() -> None:
    outcomes = [Outcome(name, "0001", "missing", None, None, None, None) for name in "abc"]
    found = Pictures({"a": Picture("base", "outlines")}, frozenset("ab"), "previews")
    assert table_data(outcomes, found)["pictures"] == [["base", "outlines"], 1, 0]
