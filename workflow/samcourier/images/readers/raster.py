"""PNG and JPEG: one plane, decoded as a whole.

Pillow is not used because it reduces 16-bit colour to 8 bits silently. The resolution in these
files is that of a printer or a screen, so the geometry is unknown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np

from ...errors import ImageUnfit
from ..geometry import Geometry
from .base import Index, check_fits_memory, damaged, pick_scene
from .built_in import JPEG

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
# SOF0 to SOF15 without DHT, JPG and DAC, whose codes lie between them.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class DecodedSource:
    """A decoded image in memory; see :class:`.base.Source`."""

    pixels: np.ndarray
    axes: str
    geometry: Geometry = field(default_factory=Geometry)
    channel_names: tuple[str, ...] = ()
    scene_names: tuple[str, ...] = ("",)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    @property
    def dtype(self) -> np.dtype:
        return self.pixels.dtype

    def read(self, index: Index) -> np.ndarray:
        return self.pixels[index]


@contextmanager
def open_png(path: Path, scene: int | str | None) -> Iterator[DecodedSource]:
    """Decode a PNG; palette indices become colours."""
    yield _decode(path, scene, "PNG", _png)


@contextmanager
def open_jpeg(path: Path, scene: int | str | None) -> Iterator[DecodedSource]:
    """Decode a JPEG. Raises ImageUnfit for CMYK, whose values are amounts of ink."""
    source = _decode(path, scene, "JPEG", _jpeg)
    if source.axes == "YXS" and source.shape[2] == 4:
        raise ImageUnfit(f"{path}: a CMYK JPEG, whose values are inks, expected grey or RGB")
    yield source


def _decode(
    path: Path, scene: int | str | None, kind: str, decode: Callable[[Path, bytes], np.ndarray]
) -> DecodedSource:
    pick_scene(path, [""], scene)
    try:
        pixels = np.asarray(decode(path, path.read_bytes()))
    except ImageUnfit:
        raise
    except Exception as error:
        raise damaged(path, kind, error) from error
    return DecodedSource(pixels, "YX" if pixels.ndim == 2 else "YXS")


def _png(path: Path, data: bytes) -> np.ndarray:
    width, height, bits, kind = (int(each) for each in struct.unpack_from(">IIBB", data, 16))
    samples = {0: 1, 4: 2, 2: 3}.get(kind, 4)
    check_fits_memory(path, width * height * samples * max(bits // 8, 1))
    pixels = np.asarray(imagecodecs.png_decode(data))
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        # The alpha channel holds no measured intensity.
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return pixels


def _jpeg(path: Path, data: bytes) -> np.ndarray:
    """Decode a JPEG with an end marker; libjpeg would fill a truncated file with grey."""
    position = len(JPEG.magic[0]) - 1
    while (marker := data[position + 1]) != _START_OF_SCAN:
        if marker in _FRAME_HEADERS:
            sizes = struct.unpack_from(">HHB", data, position + 5)
            check_fits_memory(path, math.prod(int(size) for size in sizes))
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if data.find(_END_OF_IMAGE, position) < 0:
        raise ValueError("the end marker is missing")
    return imagecodecs.jpeg_decode(data)
