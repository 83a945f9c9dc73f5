"""LIF and ND2, with the readers of bioio if these are installed (extra ``vendor``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ImageUnfit
from ..geometry import Geometry, measured_axis
from ..units import MICROMETER
from .base import Index, Open, damaged, one_line, pick_scene

#: Without ``chunk_dims`` a chunk is a whole stack; ND2 is always read frame by frame.
_BY_PLANE: dict[str, dict[str, Any]] = {
    "LIF": {"chunk_dims": ["Y", "X"]},
    "ND2": {},
}


class BioioSource:
    """One scene from a reader of bioio; planes are read on request."""

    def __init__(self, path: Path, kind: str, reader: Any) -> None:
        array = reader.dask_data
        self.axes: str = reader.dims.order
        self.shape: tuple[int, ...] = tuple(int(size) for size in array.shape)
        self.dtype: np.dtype = np.dtype(array.dtype)
        sizes = reader.physical_pixel_sizes
        self.geometry = Geometry(
            tuple(measured_axis(axis, getattr(sizes, axis), MICROMETER) for axis in "ZYX")
        )
        self.channel_names = tuple(str(name) for name in reader.channel_names or ())
        self.scene_names = tuple(str(name) for name in reader.scenes)
        self._path, self._kind, self._array = path, kind, array

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``; see :class:`.base.Source`."""
        try:
            return np.asarray(self._array[index].compute(scheduler="synchronous"))
        except Exception as error:
            raise damaged(self._path, self._kind, error) from error


def _opener(kind: str) -> Open:
    """Return the function that opens a file of this kind."""

    @contextmanager
    def open_it(path: Path, scene: int | str | None) -> Iterator[BioioSource]:
        package = f"bioio-{kind.lower()}"
        try:
            module = importlib.import_module(package.replace("-", "_"))
        except ImportError as error:
            raise ImageUnfit(
                f"{path}: a {kind} file, whose reader is not installed ({one_line(error)}),"
                f" expected {package}: pip install {package}"
            ) from error
        try:
            reader = module.Reader(path, **_BY_PLANE[kind])
            scenes = [str(name) for name in reader.scenes]
            number = pick_scene(path, scenes, scene)
            reader.set_scene(number)
            source = BioioSource(path, kind, reader)
        except ImageUnfit:
            raise
        except Exception as error:
            raise damaged(path, kind, error) from error
        yield source

    return open_it


open_lif, open_nd2 = map(_opener, ("LIF", "ND2"))
