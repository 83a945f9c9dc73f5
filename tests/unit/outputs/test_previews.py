"""Previews: of bounded size, with a contrast that shows the cells, outlines on them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from samcourier.outputs import previews
from samcourier.outputs.previews import LONGEST_EDGE_PX, png, preview, preview_in_bands, read_png

OUTLINE = [255, 214, 0]


def disc(edge: int) -> np.ndarray:
    y, x = np.mgrid[:edge, :edge] - edge / 2
    return (y**2 + x**2 < (edge / 4) ** 2).astype(np.uint32)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1), (1, 1)),
        ((300, 200), (300, 200)),
        ((LONGEST_EDGE_PX, 7), (LONGEST_EDGE_PX, 7)),
        ((3000, 1000), (1000, 333)),
        ((2049, 2), (683, 1)),
        ((1, 3000), (1, 1000)),
        ((3000, 1), (1000, 1)),
    ],
)
def test_no_edge_is_longer_than_the_bound(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    picture = preview(np.ones(shape, np.uint16), np.zeros(shape, np.uint32)).picture
    assert (picture.shape, picture.dtype) == ((*expected, 3), np.uint8)


@pytest.mark.parametrize("edge", [200, 3000])
def test_outlines_lie_on_the_border_of_the_object(edge: int) -> None:
    mask = disc(edge)
    picture = preview(np.zeros((edge, edge), np.uint8), mask).picture
    y, x = np.nonzero((picture == OUTLINE).all(axis=2))
    radius = np.hypot(y - picture.shape[0] / 2, x - picture.shape[1] / 2)
    assert len(y) > 100
    np.testing.assert_allclose(radius, picture.shape[0] / 4, atol=2)


def test_hot_pixels_do_not_darken_the_rest() -> None:
    pixels = disc(200).astype(np.uint16) * 100 + 10
    pixels[0, 0] = 65_535
    picture = preview(pixels, np.zeros_like(pixels, np.uint32)).picture
    assert picture[100, 100].tolist() == [255] * 3
    assert picture[199, 199].tolist() == [0] * 3


def test_an_even_image_is_no_division_by_zero() -> None:
    assert preview(np.full((4, 4), 7.0), np.zeros((4, 4), np.uint32)).base.max() == 0


@pytest.mark.parametrize(("channels", "colour"), [(1, (1, 1, 1)), (2, (0, 1, 1)), (3, (1, 0, 0))])
def test_channels_have_colours_of_their_own(channels: int, colour: tuple[int, ...]) -> None:
    pixels = np.zeros((channels, 20, 20), np.uint16)
    pixels[0, 5:15, 5:15] = 100
    picture = preview(pixels, np.zeros((20, 20), np.uint32)).picture
    assert picture[10, 10].tolist() == [255 * part for part in colour]


def test_more_channels_than_colours_are_averaged() -> None:
    picture = preview(np.ones((5, 4, 4)), np.zeros((4, 4), np.uint32)).picture
    assert picture.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("shape", "sizes_um", "shown"),
    [
        ((40, 50), (None, None), (40, 50)),
        ((40, 50), (0.5, 0.5), (40, 50)),
        ((40, 50), (None, 0.5), (40, 50)),
        ((40, 50), (1.0, 0.5), (80, 50)),
        ((40, 50), (0.5, 1.0), (40, 100)),
        ((40, 50), (0.65, 0.5), (52, 50)),
        # 3000 x 1500 µm: 1000 x 500, of which 3 µm are a pixel.
        ((3000, 3000), (1.0, 0.5), (1000, 500)),
        ((300, 2000), (3.0, 1.0), (450, 1000)),
        ((2, 2), (1000.0, 1.0), (1000, 1)),
    ],
)
def test_a_picture_has_square_pixels_and_no_edge_that_is_too_long(
    shape: tuple[int, int], sizes_um: tuple[float | None, float | None], shown: tuple[int, int]
) -> None:
    picture = preview(np.ones(shape, np.uint16), np.zeros(shape, np.uint32), sizes_um).picture
    assert picture.shape[:2] == shown


def test_a_circle_of_unequal_pixels_is_shown_round() -> None:
    y, x = np.mgrid[:60, :120]
    is_inside = (2 * (y - 30)) ** 2 + (x - 60) ** 2 < 40**2
    shown = preview(is_inside.astype(np.uint8), is_inside.astype(np.uint32), (1.0, 0.5))
    for found in (shown.base[..., 0] > 0, shown.outlines):
        rows, columns = np.nonzero(found)
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 2
        assert abs(np.ptp(columns) - 80) <= 2


@pytest.mark.parametrize("sizes_um", [(None, None), (1.0, 0.4), (0.4, 1.0)])
@pytest.mark.parametrize(
    "shape", [(1, 1), (300, 200), (2, 2050, 700), (3001, 40), (5, 3000), (3, 2500, 1030)]
)
def test_in_bands_it_is_the_same_and_never_asks_for_much(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    sizes_um: tuple[float | None, float | None],
) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 60_000, shape, np.uint16)
    squares = random.integers(0, 9, (64, 64)).astype(np.uint32).repeat(50, 0).repeat(50, 1)
    mask = squares[: shape[-2], : shape[-1]]
    whole = preview(pixels, mask, sizes_um)
    monkeypatch.setattr(previews, "_BAND_PX", 10_000)
    asked = []

    def rows_of(rows: slice) -> np.ndarray:
        asked.append((rows.stop - rows.start) * shape[-1])
        return pixels[..., rows, :]

    in_bands = preview_in_bands(rows_of, mask, sizes_um)
    np.testing.assert_array_equal(in_bands.picture, whole.picture)
    assert max(asked) <= max(10_000, 8 * shape[-1])


def test_the_file_is_a_png_of_which_the_outlines_can_be_taken_off() -> None:
    shown = preview(disc(65) * np.arange(65), disc(65))
    content = png(shown)
    np.testing.assert_array_equal(imagecodecs.png_decode(content), shown.picture)
    read = read_png(content)
    np.testing.assert_array_equal(read.base, shown.base)
    np.testing.assert_array_equal(read.outlines, shown.outlines)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", imagecodecs.png_encode(disc(8).astype("u1"))])
def test_another_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no preview"):
        read_png(bytes(content))
