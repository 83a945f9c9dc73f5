"""Which batches of micro-sam are allowed; the model is a function here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samservice.engines.microsam_batches import (
    affordable_batch,
    batch_size,
    largest_equal_batch,
    random_planes,
)
from samservice.engines.microsam_stages import ScaledPlane

Maps = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("planes", "largest", "sizes"),
    [
        (1, 16, [1]),
        (1, 1, [1]),
        (3, 1, [1, 1, 1]),
        (7, 16, [4, 2, 1]),
        (16, 16, [16]),
        (31, 16, [16, 8, 4, 2, 1]),
        (9, 4, [4, 4, 1]),
    ],
)
def test_planes_are_divided_into_powers_of_two(planes: int, largest: int, sizes: list[int]) -> None:
    divided = []
    while planes:
        divided.append(batch_size(planes, largest))
        planes -= divided[-1]
    assert divided == sizes


def model(differs: Callable[[int, int], bool], calls: list[int]) -> Callable[..., Maps]:
    """Return a model whose result is off by one unit in the last place of one value where
    ``differs(size of the batch, number of the plane in it)``."""

    def maps_of(planes: Sequence[ScaledPlane]) -> Maps:
        calls.append(len(planes))
        found = []
        for number, plane in enumerate(planes):
            maps = {
                "foreground": plane.pixels[..., 0].astype(np.float32),
                "center_distances": plane.pixels[..., 1].astype(np.float32),
            }
            if differs(len(planes), number):
                maps["center_distances"].view(np.uint32)[-1, -1] ^= 1
            found.append(maps)
        return found

    return maps_of


@pytest.mark.parametrize(
    ("differs", "limit", "largest"),
    [
        (lambda size, number: False, 16, 16),
        (lambda size, number: False, 100, 16),
        (lambda size, number: False, 13, 8),
        (lambda size, number: False, 2, 2),
        (lambda size, number: False, 1, 1),
        (lambda size, number: size == 2 and number == 0, 16, 1),
        (lambda size, number: size == 2 and number == 1, 16, 1),
        (lambda size, number: size == 8 and number == 5, 16, 4),
        (lambda size, number: size == 16 and number == 15, 16, 8),
    ],
)
def test_the_largest_batch_is_that_up_to_which_every_plane_is_equal(
    differs: Callable[[int, int], bool], limit: int, largest: int
) -> None:
    calls: list[int] = []
    assert largest_equal_batch(model(differs, calls), 16, limit) == largest
    if limit == 1:
        assert not calls


def test_a_batch_that_exceeds_the_memory_is_too_large() -> None:
    exact = model(lambda size, number: False, [])

    def maps_of(planes: Sequence[ScaledPlane]) -> Maps:
        if len(planes) > 4:
            raise MemoryError
        return exact(planes)

    assert largest_equal_batch(maps_of, 16, 16) == 4


@pytest.mark.parametrize(
    ("free_gib", "of_one_plane_gib", "planes"),
    [(80, 2, 16), (80, 10, 6), (80, 30, 2), (80, 40, 1), (80, 100, 1), (8, 0.0, 16)],
)
def test_the_peak_of_one_plane_and_the_free_memory_limit_a_batch(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, of_one_plane_gib: float, planes: int
) -> None:
    weights, gib = 5 << 30, 1 << 30
    peaks = [weights]
    cuda = SimpleNamespace(
        synchronize=lambda device: None,
        memory_allocated=lambda device: weights,
        reset_peak_memory_stats=lambda device: peaks.append(weights),
        max_memory_allocated=lambda device: peaks[-1],
        empty_cache=lambda: None,
        mem_get_info=lambda device: (int(free_gib * gib), 141 * gib),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    def infer_one() -> None:
        peaks[-1] = max(peaks[-1], weights + int(of_one_plane_gib * gib))

    assert affordable_batch(infer_one, "cuda") == planes


def test_zero_and_negative_zero_are_different() -> None:
    def maps_of(planes: Sequence[ScaledPlane]) -> Maps:
        return [{"foreground": np.full((2, 2), -0.0 if len(planes) == 2 else 0.0, np.float32)}] * 2

    assert largest_equal_batch(maps_of, 16, 2) == 1


def test_random_planes_are_different_and_always_the_same() -> None:
    first, second = random_planes(2, 32)
    assert first.pixels.shape == (32, 32, 3) and first.pixels.dtype == np.uint8
    assert first.input_size == first.original_size == (32, 32)
    assert not np.array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(random_planes(2, 32)[1].pixels, second.pixels)
