"""The names of the API, and the arrays that it takes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import samcourier
from samcourier.api.service import plane_of
from samcourier.errors import ImageUnfit


def test_the_package_shows_its_api_alone() -> None:
    assert dir(samcourier) == ["connect", "open_results", "segment_dataset"]
    for name in dir(samcourier):
        assert getattr(samcourier, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        samcourier.segment  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, samcourier; print([m for m in sys.modules if m.startswith('samcourier.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((4, 5), None, ("YX", (4, 5))),
        ((2, 4, 5), None, ("CYX", (2, 4, 5))),
        ((4, 5, 2), "YXC", ("CYX", (2, 4, 5))),
        ((4, 5), "XY", ("YX", (5, 4))),
        ((7, 4, 5), "zyx", ("ZYX", (7, 4, 5))),
        ((7, 2, 4, 5), "ZCYX", ("CZYX", (2, 7, 4, 5))),
    ],
)
def test_axes_come_in_the_order_of_the_service(
    shape: tuple[int, ...], axes: str | None, expected: tuple[str, tuple[int, ...]]
) -> None:
    pixels = np.arange(np.prod(shape), dtype=">u2").reshape(shape)
    plane = plane_of(pixels, axes)
    assert (plane.axes, plane.pixels.shape) == expected
    assert plane.pixels.dtype == np.uint16 and plane.pixels.flags.c_contiguous
    assert plane.pixels.sum() == pixels.sum()


@pytest.mark.parametrize(
    ("pixels", "axes", "words"),
    [
        (np.zeros(4), None, "shape (4,) without axes"),
        (np.zeros((2, 3, 4, 5)), None, "shape (2, 3, 4, 5) without axes"),
        (np.zeros((4, 5)), "CYX", "with the axes 'CYX'"),
        (np.zeros((4, 5)), "TX", "with the axes 'TX'"),
        (np.zeros((4, 5, 5)), "YYX", "with the axes 'YYX'"),
        (np.zeros((40, 50, 3)), None, "looks like (Y, X, channel)"),
        (np.array([["a", "b"]]), None, "an array of <U1"),
        (np.zeros((2, 2), complex), None, "an array of complex128"),
        ([[1, 2], [3]], None, "inhomogeneous"),
        (None, None, "shape ()"),
    ],
)
def test_an_array_that_does_not_fit_is_named(pixels: object, axes: str | None, words: str) -> None:
    with pytest.raises(ImageUnfit) as caught:
        plane_of(pixels, axes)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_booleans_and_lists_are_numbers() -> None:
    assert plane_of([[True, False]], None).pixels.dtype == np.uint8
    np.testing.assert_array_equal(plane_of([[1, 2], [3, 4]], None).pixels, [[1, 2], [3, 4]])
