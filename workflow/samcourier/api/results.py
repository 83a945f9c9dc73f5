"""Open a results folder: images, masks, logs and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..images.planes import open_planes
from ..masks.omezarr import opened_mask, read_mask
from ..results.environment import SHEET
from ..results.image_log import ImageLog, read_image_log
from ..results.layout import find_mask, log_path
from ..samples.properties import ANY
from ..samples.sheet import ImageRow, read_sheet
from ..tables.write import GROUPS, OBJECTS, SUMMARY

if TYPE_CHECKING:
    import pandas


def open_results(path: str | Path) -> Results:
    """Return the results of a dataset, e.g. of ``results/plate7``.

    Raises :class:`samcourier.errors.InputError` for a folder that is no results folder.
    """
    folder = Path(path)
    if not (folder / SHEET).is_file():
        raise InputError(f"{folder}: no results folder, expected one with {SHEET}")
    return Results(folder)


@dataclass(frozen=True)
class ImageResult:
    """The results of one image.

    Attributes:
        row: Its row of the sample sheet.
        dataset_dir: The results folder.
    """

    row: ImageRow
    dataset_dir: Path

    @property
    def image(self) -> str:
        """The id of the image."""
        return self.row.image

    @property
    def properties(self) -> Mapping[str, str]:
        """The further columns of the sheet."""
        return self.row.properties

    @cached_property
    def log(self) -> ImageLog | None:
        """The log, None while the image has none."""
        return read_image_log(log_path(self.dataset_dir, self.image))

    @property
    def mask_path(self) -> Path | None:
        """The OME-Zarr of the mask, None without one."""
        path = find_mask(self.dataset_dir, self.image)
        return path if path.exists() else None

    def labels(self) -> npt.NDArray[np.uint32]:
        """Return the mask: uint32, the axes of the image without C, 0 is background.

        Raises InputError for an image without a mask.
        """
        return read_mask(self._existing_mask())

    def labels_dask(self) -> Any:
        """Return the mask as a dask array, whose chunks are read when they are needed.

        Raises InputError for an image without a mask, and where dask is not installed.
        """
        try:
            array: Any = import_module("dask.array")
        except ImportError:
            raise InputError("labels_dask needs the package dask: pip install dask") from None
        path = self._existing_mask()
        with opened_mask(path) as mask:
            shape, dtype, chunks = mask.shape, mask.dtype, mask.chunks
        return array.from_array(_Blocks(path, shape, dtype), chunks=chunks, name=False)

    def pixels(self) -> np.ndarray:
        """Read the selected pixels of the image.

        The axes of a stack of planes come first, e.g. (T, C, Y, X); those of a plane or volume are
        (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X).

        Raises the errors of the readers, e.g. ImageUnfit for a damaged file.
        """
        with open_planes(self.row.path, self.row.selection) as planes:
            read = np.stack([planes.read(number).pixels for number in range(len(planes))])
            return read.reshape(*planes.stack_shape, *planes.plane_shape)

    def _existing_mask(self) -> Path:
        path = self.mask_path
        if path is None:
            reason = self.log.failure.message if self.log and self.log.failure else "none was made"
            raise InputError(f"{self.image}: no mask in {self.dataset_dir}: {reason}")
        return path


class _Blocks:
    """A mask on the disk, opened for each block that is read."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._path = path
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    def __getitem__(self, block: Any) -> Any:
        with opened_mask(self._path) as mask:
            return mask[block]


class Results(Mapping[str, ImageResult]):
    """The results of a dataset, by the ids of its images, in the order of the sheet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = {row.image: row for row in read_sheet(path / SHEET, ANY)}

    def __getitem__(self, image: str) -> ImageResult:
        """Return the results of one image. Raises KeyError for an unknown id."""
        return ImageResult(self._rows[image], self.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Results({str(self.path)!r}, {len(self)} images)"

    @property
    def failed(self) -> dict[str, str]:
        """The reason of each image that failed."""
        logs = {image: result.log for image, result in self.items()}
        return {
            image: log.failure.message if log.failure else "no reason given"
            for image, log in logs.items()
            if log is not None and log.status == "failed"
        }

    def summary(self) -> pandas.DataFrame:
        """Return one row per image: properties, count, density and medians over its objects.

        Raises InputError as :meth:`objects` does.
        """
        return self._read_tsv(SUMMARY)

    def objects(self) -> pandas.DataFrame:
        """Return one row per object of all images, with the properties of their images.

        Raises InputError where no run has made the table (``outputs: [objects_parquet]`` of the
        config), and where pandas is not installed.
        """
        path = self.path / OBJECTS
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, expected the table of a run with outputs:"
                " [objects_parquet] in its config"
            )
        return _pandas().read_parquet(path)

    def groups(self) -> pandas.DataFrame:
        """Return one row per value of each property: counts, densities and medians.

        Raises InputError as :meth:`objects` does.
        """
        return self._read_tsv(GROUPS)

    def _read_tsv(self, name: str) -> pandas.DataFrame:
        path = self.path / name
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, expected the table of a run that has ended, with outputs:"
                " [objects_parquet] in its config"
            )
        texts = {"image": str, "property": str, "value": str}
        return _pandas().read_csv(
            path, sep="\t", dtype=texts, keep_default_na=False, na_values=[""]
        )


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError(
            "tables as DataFrames need the package pandas: pip install pandas"
        ) from None
    return pandas
