"""Images of nuclei with a known truth: generated ones, and real ones made worse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SIDE_PX = 384
#: Photons of a typical nucleus in a pixel, above the background.
PHOTONS = {"low": 400, "middle": 60, "high": 15}
BACKGROUNDS = ("flat", "slope", "vignette", "haze")
#: Part of the image that nuclei cover.
COVERAGE = {"sparse": 0.02, "medium": 0.12, "crowded": 0.3}
DIAMETERS_PX = (12, 24, 48)


class Cell(NamedTuple):
    """One cell of the table: noise, background, density and diameter of the nuclei."""

    noise: str
    background: str
    density: str
    diameter_px: int


CELLS = tuple(
    Cell(*values) for values in itertools.product(PHOTONS, BACKGROUNDS, COVERAGE, DIAMETERS_PX)
)


def generated(cell: Cell, seed: int) -> tuple[Pixels, Pixels]:
    """Return an image (Y, X) uint16 of a cell of the table, and its labels."""
    rng = np.random.default_rng([seed, CELLS.index(cell)])
    labels, brightness = _nuclei(rng, cell)
    signal = ndimage.gaussian_filter(brightness, 1.2)
    y, x = np.mgrid[0 : 1 : SIDE_PX * 1j, 0 : 1 : SIDE_PX * 1j]
    total = signal + 0.2
    if cell.background == "slope":
        total += x
    if cell.background == "haze":
        total += 1.5 * ndimage.gaussian_filter(brightness, 1.5 * cell.diameter_px)
        total += 0.3 * np.exp(-((y - 0.3) ** 2 + (x - 0.7) ** 2) / 0.05)
    if cell.background == "vignette":
        total *= 1 - 1.4 * ((y - 0.5) ** 2 + (x - 0.5) ** 2)
    counts = 4 * rng.poisson(total * PHOTONS[cell.noise]) + rng.normal(100, 4, total.shape)
    return counts.clip(0, 65535).astype(np.uint16), labels


def _nuclei(rng: np.random.Generator, cell: Cell) -> tuple[Pixels, Floats]:
    """Return labels of ellipses that may touch, and their brightness, of which 1 is typical."""
    labels = np.zeros((SIDE_PX, SIDE_PX), np.int32)
    brightness = np.zeros(labels.shape)
    area = np.pi / 4 * cell.diameter_px**2
    wanted, number = max(6, round(COVERAGE[cell.density] * labels.size / area)), 0
    for _ in range(20 * wanted):
        if number == wanted:
            break
        box, inside = _ellipse(rng, cell.diameter_px)
        covered = inside & (labels[box] > 0)
        if not inside.any() or covered.sum() > 0.05 * inside.sum():
            continue
        number += 1
        waves = ndimage.gaussian_filter(rng.standard_normal(inside.shape), cell.diameter_px / 10)
        texture = np.clip(1 + 0.0525 * cell.diameter_px * waves, 0.4, 2)
        free = inside & ~covered
        labels[box][free] = number
        brightness[box][free] = (rng.lognormal(0, 0.35) * texture)[free]
    return labels, brightness


def _ellipse(
    rng: np.random.Generator, diameter_px: float
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Return the bounding box of an ellipse at a random place, and its pixels in the box."""
    centre = rng.uniform(0, SIDE_PX, 2)
    radius = diameter_px / 2 * rng.lognormal(0, 0.15)
    stretch, angle = np.sqrt(rng.uniform(1, 1.6)), rng.uniform(0, np.pi)
    reach = int(radius * stretch) + 3
    rows, columns = (
        slice(max(int(each) - reach, 0), min(int(each) + reach + 1, SIDE_PX)) for each in centre
    )
    y, x = np.mgrid[rows, columns]
    y, x = y - centre[0], x - centre[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / (radius * stretch)
    across = (y * np.cos(angle) - x * np.sin(angle)) / (radius / stretch)
    return (rows, columns), along**2 + across**2 < 1


def degraded(image: Pixels) -> Iterator[tuple[str, Floats]]:
    """Yield the names and pixels of an image made worse: noise, and uneven illumination."""
    pixels = image.astype(np.float64)
    brightest = pixels.max()
    height, width = image.shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    for photons in (50, 20):
        noisy = np.random.default_rng(0).poisson(pixels / brightest * photons)
        yield f"{photons} photons", noisy.astype(np.float64)
    for slope in (0.2, 1.0):
        yield f"slope {slope}", pixels + slope * brightest * x
    yield "vignette", pixels * (1 - 1.6 * ((y - 0.5) ** 2 + (x - 0.5) ** 2))
