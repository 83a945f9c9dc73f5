"""Synthetic fluorescence images of nuclei with known truth, as a demo dataset.

They do not model a microscope exactly, but contain what makes segmentation difficult: irregular
touching nuclei of very different brightness, uneven background, blur with a halo, shot and read
noise.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class DemoImage:
    """One image of the demo.

    Attributes:
        id: Id in the sample sheet and stem of the file name.
        size_px: (Y, X) in pixels.
        dtype: ``uint8`` or ``uint16``.
        channels: Number of channels.
        cell_count: Number of nuclei.
        pixel_size_um: In micrometres, written into the OME file or else into the sheet.
        ome: Write an OME-TIFF, else an ImageJ TIFF.
    """

    id: str
    size_px: tuple[int, int]
    dtype: str
    channels: int
    cell_count: int
    pixel_size_um: float | None = None
    ome: bool = False

    @property
    def axes(self) -> str:
        """``YX``, or ``CYX`` for several channels."""
        return "YX" if self.channels == 1 else "CYX"


#: nuclei_13 has no cell; nuclei_05 and nuclei_10 are not square; nuclei_07 has no pixel size.
DEMO_IMAGES: tuple[DemoImage, ...] = (
    DemoImage("nuclei_01", (512, 512), "uint16", 1, 60, 0.5, ome=True),
    DemoImage("nuclei_02", (512, 512), "uint8", 1, 35, 0.5),
    DemoImage("nuclei_03", (512, 512), "uint16", 1, 90, 0.5),
    DemoImage("nuclei_04", (512, 512), "uint16", 2, 50, 0.5, ome=True),
    DemoImage("nuclei_05", (512, 640), "uint8", 1, 70, 0.5),
    DemoImage("nuclei_06", (512, 512), "uint16", 1, 8, 0.5),
    DemoImage("nuclei_07", (512, 512), "uint16", 3, 55, None),
    DemoImage("nuclei_08", (512, 512), "uint16", 1, 1, 0.5, ome=True),
    DemoImage("nuclei_09", (768, 768), "uint16", 1, 130, 0.5),
    DemoImage("nuclei_10", (768, 1024), "uint16", 1, 200, 0.5, ome=True),
    DemoImage("nuclei_11", (768, 768), "uint8", 1, 110, 0.5),
    DemoImage("nuclei_12", (768, 768), "uint16", 2, 140, 0.5),
    DemoImage("nuclei_13", (512, 512), "uint16", 1, 0, 0.5),
    DemoImage("nuclei_14", (1024, 1024), "uint16", 1, 260, 0.5, ome=True),
    DemoImage("nuclei_15", (1024, 1024), "uint8", 1, 180, 0.5),
    DemoImage("nuclei_16", (1024, 1024), "uint16", 3, 220, 0.5, ome=True),
    DemoImage("nuclei_17", (1024, 1024), "uint16", 1, 340, 0.5),
    DemoImage("nuclei_18", (1024, 1024), "uint16", 1, 25, 0.5),
    DemoImage("nuclei_19", (1024, 1024), "uint16", 2, 240, 0.5),
    DemoImage("nuclei_20", (512, 512), "uint16", 1, 75, 0.5),
    DemoImage("nuclei_21", (2048, 2048), "uint16", 1, 900, 0.5, ome=True),
    DemoImage("nuclei_22", (2048, 2048), "uint16", 1, 1200, 0.5),
    DemoImage("nuclei_23", (2048, 2048), "uint8", 1, 700, 0.5),
    DemoImage("nuclei_24", (2048, 2048), "uint16", 1, 1000, 0.5, ome=True),
)


@dataclass(frozen=True)
class _Cell:
    """One nucleus: its bounding box in the plane, and its pixels and brightness in the box."""

    box: tuple[slice, slice]
    inside: npt.NDArray[np.bool_]
    brightness: Floats


def _outline(
    rng: np.random.Generator, semi_axes_px: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return (inside, depth) of an irregular ellipse; depth is 1 in the centre, 0 at the edge."""
    major_px, minor_px = semi_axes_px
    half_px = int(np.ceil(major_px * 1.3)) + 1
    y, x = np.mgrid[-half_px : half_px + 1, -half_px : half_px + 1].astype(np.float32)
    angle, *phases = rng.uniform(0, 2 * np.pi, 4)
    theta = np.arctan2(y, x) - angle
    radius_px = 1 / np.hypot(np.cos(theta) / major_px, np.sin(theta) / minor_px)
    for order, phase in enumerate(phases, start=2):
        radius_px *= 1 + rng.normal(0, 0.06 / (order - 1)) * np.cos(order * theta + phase)
    depth = 1 - np.hypot(x, y) / radius_px
    return depth > 0, depth.astype(np.float32)


def _brightness(rng: np.random.Generator, depth: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """Return a nucleus' brightness: brighter in the middle, darker at the nucleoli."""
    shape = depth.shape
    brightness = (0.75 + 0.5 * np.sqrt(np.clip(depth, 0, 1))).astype(np.float32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for _ in range(rng.integers(0, 4)):
        centre_y, centre_x = (rng.normal(size / 2, size / 9) for size in shape)
        squared_px = (y - centre_y) ** 2 + (x - centre_x) ** 2
        brightness -= 0.3 * np.exp(-squared_px / rng.uniform(4, 12)).astype(np.float32)
    brightness *= np.float32(rng.lognormal(0, 0.3))
    return np.where(inside, brightness, 0).astype(np.float32)


def _new_cell(
    rng: np.random.Generator, labels: Labels, centres: list[npt.NDArray[np.float64]]
) -> _Cell | None:
    """Return a cell at a random position, None if it would cover others or be mostly outside.

    Every third cell is placed next to an earlier one, so that many cells touch.
    """
    semi_axes_px = np.sort(rng.uniform((8, 8), (15, 12)))[::-1]
    is_mitotic = rng.random() < 0.05
    if is_mitotic:
        semi_axes_px = semi_axes_px * (0.8, 0.6)
    inside, depth = _outline(rng, semi_axes_px)
    if centres and rng.random() < 1 / 3:
        direction = rng.uniform(0, 2 * np.pi)
        offset_px = rng.uniform(17, 24) * np.array([np.sin(direction), np.cos(direction)])
        centre = np.clip(centres[rng.integers(len(centres))] + offset_px, 0, labels.shape)
    else:
        centre = rng.uniform((0, 0), labels.shape)
    top, left = (int(v) for v in np.rint(centre) - np.array(inside.shape) // 2)
    box = (
        slice(max(top, 0), min(top + inside.shape[0], labels.shape[0])),
        slice(max(left, 0), min(left + inside.shape[1], labels.shape[1])),
    )
    visible = (
        slice(box[0].start - top, box[0].stop - top),
        slice(box[1].start - left, box[1].stop - left),
    )
    free = inside[visible] & (labels[box] == 0)
    covered = inside[visible].sum() - free.sum()
    if free.sum() < 0.5 * inside.sum() or covered > 0.06 * inside.sum():
        return None
    if ndimage.label(free)[1] != 1:
        return None
    centres.append(centre)
    brightness = _brightness(rng, depth, inside)
    return _Cell(box, free, brightness[visible] * np.float32(2.5 if is_mitotic else 1))


def _cells(rng: np.random.Generator, labels: Labels, cell_count: int) -> list[_Cell]:
    """Place exactly ``cell_count`` cells and write them into ``labels``."""
    cells: list[_Cell] = []
    centres: list[npt.NDArray[np.float64]] = []
    while len(cells) < cell_count:
        cell = _new_cell(rng, labels, centres)
        if cell is not None:
            cells.append(cell)
            labels[cell.box][cell.inside] = len(cells)
    return cells


def _signal(shape: tuple[int, int], cells: list[_Cell], chosen: list[bool]) -> Floats:
    plane = np.zeros(shape, np.float32)
    for cell, wanted in zip(cells, chosen, strict=True):
        if wanted:
            np.maximum(plane[cell.box], cell.brightness, out=plane[cell.box])
    return plane


def _uneven(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return a smooth field around 1: vignetting, a tilt, and two waves of low frequency."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, np.newaxis]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[np.newaxis, :]
    centre_y, centre_x, tilt_y, tilt_x = (np.float32(v) for v in rng.uniform(-0.2, 0.2, 4))
    field = 1.1 - 0.2 * ((y - centre_y) ** 2 + (x - centre_x) ** 2) + tilt_y * y + tilt_x * x
    for _ in range(2):
        waves_y, waves_x, phase_y, phase_x = (np.float32(v) for v in rng.uniform(1, 4, 4))
        field += np.float32(0.06) * np.cos(waves_y * y + phase_y) * np.cos(waves_x * x + phase_x)
    return np.asarray(field, np.float32)


def _halo(plane: Floats) -> Floats:
    """Return the plane blurred by 12 px, computed at a quarter of the resolution."""
    rows, columns = plane.shape
    coarse = plane.reshape(rows // 4, 4, columns // 4, 4).mean(axis=(1, 3))
    return np.asarray(ndimage.zoom(ndimage.gaussian_filter(coarse, 3.0), 4, order=1), np.float32)


def _camera(
    rng: np.random.Generator, signal: Floats, image: DemoImage, photons: float
) -> npt.NDArray[Any]:
    """Return counts: signal and background through the optics, shot noise, gain, read noise."""
    background = np.float32(0.22) * _uneven(rng, image.size_px)
    texture = ndimage.gaussian_filter(
        rng.standard_normal(image.size_px, dtype=np.float32), 2.0, truncate=3
    )
    # The smoothed texture has a standard deviation of 0.14, so 0.7 makes it 10 % of the brightness.
    signal = signal * (1 + np.float32(0.7) * texture)
    blurred = ndimage.gaussian_filter(signal, 1.4) + np.float32(0.15) * _halo(signal)
    expected = np.clip(blurred + background, 0, None) * np.float32(photons)
    counts = rng.poisson(expected).astype(np.float32)
    top = np.iinfo(image.dtype).max
    offset, gain = (6.0, 70 / photons) if image.dtype == "uint8" else (100.0, 2.2)
    counts *= np.float32(gain)
    counts += rng.standard_normal(image.size_px, dtype=np.float32) * np.float32(gain * 2) + offset
    return np.asarray(np.clip(np.rint(counts), 0, top), image.dtype)


def _draw(image: DemoImage, seed: int) -> tuple[npt.NDArray[Any], Labels]:
    """Return the image, (Y, X) or (C, Y, X), and its truth (Y, X) uint16.

    Channels: all nuclei; half of the nuclei (a cycling marker); cytoplasm around all of them.
    """
    rng = np.random.default_rng([seed, *image.id.encode()])
    labels = np.zeros(image.size_px, np.uint16)
    cells = _cells(rng, labels, image.cell_count)
    nuclei = _signal(image.size_px, cells, [True] * len(cells))
    signals = [nuclei]
    if image.channels > 1:
        cycling = [bool(v) for v in rng.random(len(cells)) < 0.5]
        signals.append(_signal(image.size_px, cells, cycling))
    if image.channels > 2:
        signals.append(_halo(nuclei))
    planes = [_camera(rng, signal, image, rng.uniform(120, 400)) for signal in signals]
    return (planes[0] if image.channels == 1 else np.stack(planes)), labels


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling, which replaces ``path`` when the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_image(path: Path, pixels: npt.NDArray[Any], image: DemoImage) -> None:
    # The file must not contain version, time and a random id: a rerun writes the same bytes.
    metadata: dict[str, Any] = {"axes": image.axes}
    if image.ome:
        metadata |= {"UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, image.id)), "Creator": "samcourier"}
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": image.pixel_size_um}
            metadata |= {f"PhysicalSize{axis}Unit": "µm"}
    with _replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            pixels,
            ome=image.ome,
            imagej=not image.ome,
            photometric="minisblack",
            software=False,
            metadata=metadata,
        )


def _write_truth(path: Path, labels: Labels) -> None:
    with _replacing(path) as temporary:
        tifffile.imwrite(
            temporary, labels, imagej=True, photometric="minisblack", metadata={"axes": "YX"}
        )


def write_image(image: DemoImage, directory: Path, seed: int = 7) -> None:
    """Write one image of the demo and its truth; the same seed gives the same bytes."""
    pixels, labels = _draw(image, seed)
    truth = directory / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    _write_truth(truth / f"{image.id}.tif", labels)
    _write_image(directory / f"{image.id}.tif", pixels, image)


def write_demo(directory: Path, seed: int = 7) -> list[DemoImage]:
    """Write :data:`DEMO_IMAGES` to ``directory/<id>.tif`` and ``directory/truth/<id>.tif``.

    Images are (Y, X) or (C, Y, X), uint8 or uint16, OME-TIFF or ImageJ TIFF with their axes;
    truths are (Y, X) uint16, 0 background, 1..cell_count. A file is complete or
    absent, and a rerun with the same ``seed`` writes the same bytes. Raises ``OSError``.
    """
    for image in DEMO_IMAGES:
        write_image(image, directory, seed)
    return list(DEMO_IMAGES)


def sample_sheet() -> str:
    """Return the demo's sample sheet as text; it omits the pixel size of OME files."""
    rows = ["image\tpath\tpixel_size_um\ttruth"]
    for image in DEMO_IMAGES:
        size = "" if image.ome or image.pixel_size_um is None else str(image.pixel_size_um)
        path, truth = f"data/demo/{image.id}.tif", f"data/demo/truth/{image.id}.tif"
        rows.append(f"{image.id}\t{path}\t{size}\t{truth}")
    return "\n".join(rows) + "\n"
