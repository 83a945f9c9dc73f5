"""PNG and JPEG: one plane, decoded whole.

Not through Pillow, which cuts 16-bit colour to 8 bits without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from ..errors import ImageUnfit
from .base import Index, one_line, pick_scene

PNG_MAGIC = (b"\x89PNG\r\n\x1a\n",)
JPEG_MAGIC = (b"\xff\xd8\xff",)


@dataclass(frozen=True)
class DecodedSource:
    """An image that is in memory whole."""

    pixels: np.ndarray
    axes: str
    pixel_size_um: float | None = None
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
    """Decode a PNG; a palette becomes its colours."""
    yield _decode(path, scene, "PNG", imagecodecs.png_decode)


@contextmanager
def open_jpeg(path: Path, scene: int | str | None) -> Iterator[DecodedSource]:
    """Decode a JPEG; CMYK is refused, its values are inks."""
    source = _decode(path, scene, "JPEG", imagecodecs.jpeg_decode)
    if source.axes == "YXS" and source.shape[2] == 4:
        raise ImageUnfit(f"{path}: a CMYK JPEG, expected grey or RGB")
    yield source


def _decode(
    path: Path, scene: int | str | None, kind: str, decode: Callable[[bytes], np.ndarray]
) -> DecodedSource:
    pick_scene(path, [""], scene)
    try:
        pixels = np.asarray(decode(path.read_bytes()))
    except Exception as error:
        raise ImageUnfit(
            f"{path}: damaged {kind} ({one_line(error)}), expected a whole file"
        ) from error
    return DecodedSource(pixels, "YX" if pixels.ndim == 2 else "YXS")
