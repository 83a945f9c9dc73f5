"""What a run's ``outputs`` ask for of one image: made from the planes as they pass, kept by key."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CourierError, InputError
from ..files.atomic import whole_or_absent
from ..images.geometry import Geometry
from ..images.location import RemoteImage
from ..images.planes import Plane, Planes
from ..images.readers.base import one_line
from ..masks.omezarr import MaskFacts, MaskPixels, opened_mask
from ..results.image_log import OutputRecord
from ..results.layout import OUTPUT_FILES, OUTPUTS, is_output_whole, output_path, output_sha256
from ..samples.sheet import ImageRow

if TYPE_CHECKING:
    from .previews import Preview

#: Rises when the same mask gives other files.
OUTPUTS_VERSION = 3

_OF_PLANES = {"objects_csv", "objects_parquet", "polygons", "preview"}
#: The most memory that looking at a whole plane took, beside the plane (docs/outputs.md).
_BYTES_A_PIXEL = {"objects_csv": 17, "objects_parquet": 17, "polygons": 31, "preview": 11}
_NEEDS = {
    "objects_csv": ("pyarrow", "skimage"),
    "objects_parquet": ("pyarrow", "skimage"),
    "polygons": ("skimage",),
    "preview": ("skimage",),
}


def require_outputs_extra(outputs: Collection[str]) -> None:
    """Raise InputError when a package is missing that one of ``outputs`` needs."""
    for name in outputs:
        if any(find_spec(package) is None for package in _NEEDS.get(name, ())):
            raise InputError(f"outputs: {name} needs: pip install 'samcourier[outputs]'")


@dataclass(frozen=True)
class OutputsSource:
    """What the outputs of one image are made of, beside its mask.

    ``key`` and ``geometry`` are the mask's.
    """

    row: ImageRow
    planes: Planes
    key: str
    geometry: Geometry


class Outputs:
    """The outputs of one image. ``names`` are of :data:`samcourier.results.layout.OUTPUTS`."""

    def __init__(
        self,
        dataset_dir: Path,
        names: Collection[str],
        source: OutputsSource,
        *,
        retry_refused: bool = False,
    ) -> None:
        self._dataset_dir = dataset_dir
        self._names = [name for name in OUTPUTS if name in names]
        self._row = source.row
        self._planes = source.planes
        self._key = source.key
        self._geometry = source.geometry
        self._retry_refused = retry_refused
        self._measured: dict[int, dict[str, Any]] = {}
        self._features: dict[int, list[str]] = {}
        self._preview: Preview | None = None
        #: Why an output cannot be made, by its name.
        self._unmade: dict[str, str] = {}

    def see(self, number: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        """Take from one plane, or volume, and its mask what the outputs need of them."""
        self._take(set(self._names), number, pixels, mask)

    def completed(
        self,
        recorded: Mapping[str, OutputRecord],
        mask: Path,
        provenance: Mapping[str, Any],
        first: Plane | None,
    ) -> dict[str, OutputRecord]:
        """Make what is not there whole and return the records of all.

        ``recorded`` says what was made of an earlier mask; ``mask`` is whole on the disk, and
        ``provenance`` goes with its labels into the input. Planes that were not seen are read
        again, one after the other, except ``first``. Raises OSError as the disk does.
        """
        records = {name: record for name, record in recorded.items() if self._holds(name, record)}
        missing = [name for name in self._names if name not in records]
        if missing:
            with opened_mask(mask) as labels:
                unseen = set(missing) & _OF_PLANES
                if unseen and not (self._measured or self._features or self._preview is not None):
                    self._look_again(unseen, labels, first)
                for name in missing:
                    records[name] = self._made(name, labels, provenance)
        made = {name for name, record in records.items() if record.refused is None}
        for name in OUTPUT_FILES.keys() - made:
            output_path(self._dataset_dir, self._row.image, name).unlink(missing_ok=True)
        return {name: records[name] for name in OUTPUTS if name in records}

    def _holds(self, name: str, record: OutputRecord) -> bool:
        if record.made_from != self._made_from(name):
            return False
        if record.refused is not None:
            return not self._retry_refused
        path = output_path(self._dataset_dir, self._row.image, name, record.path)
        return is_output_whole(path, record.sha256)

    def _made_from(self, name: str) -> str:
        """Return the digest of all that the output depends on."""
        row = self._row
        shaping = [OUTPUTS_VERSION, name, self._key, row.image, astuple(row.selection)]
        shaping += [self._geometry.record(), self._planes.geometry.record()]
        return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:16]

    def _look_again(self, names: set[str], labels: MaskPixels, first: Plane | None) -> None:
        if first is None and "Z" not in self._planes.plane_axes:
            too_large = self._beyond_memory(names) if names - {"preview"} else None
            if too_large is not None:
                self._unmade |= dict.fromkeys(names - {"preview"}, too_large)
            if too_large is not None or names == {"preview"}:
                if "preview" in names:
                    with self._on_its_own("preview"):
                        self._preview = self._preview_in_bands(labels)
                return
        for number in range(len(self._planes)):
            plane = first if first and number == 0 else self._planes.read(number)
            mask = np.asarray(labels[(*self._planes.position(number), ...)])
            self._take(names, number, plane.pixels, mask)

    @property
    def _plane_geometry(self) -> Geometry:
        """The geometry of the mask of one plane or volume."""
        return self._geometry.along(self._planes.plane_axes.replace("C", ""))

    def _beyond_memory(self, names: set[str]) -> str | None:
        """Return why a plane that went as tiles cannot be looked at whole, None when it can."""
        planes = self._planes
        pixels_bytes = math.prod(planes.plane_shape) * planes.dtype.itemsize
        mask_bytes = math.prod(planes.plane_shape[-2:]) * max(
            _BYTES_A_PIXEL[name] for name in names
        )
        import psutil

        needed, left = pixels_bytes + mask_bytes, psutil.virtual_memory().available
        if needed <= left:
            return None
        return (
            f"{planes.path}: takes {needed / 1e9:.1f} GB of memory to look at whole, expected at"
            f" most the {left / 1e9:.1f} GB that are left; the mask is whole"
        )

    def _preview_in_bands(self, labels: MaskPixels) -> Preview:
        """Return the preview of planes that went as tiles, which may be beyond the memory."""
        from .previews import preview_in_bands

        planes, number = self._planes, len(self._planes) // 2
        width = planes.plane_shape[-1]
        return preview_in_bands(
            lambda rows: planes.read_part(number, rows, slice(0, width)),
            _PlaneOf(labels, planes.position(number)),
            self._geometry.sizes_um("YX"),
        )

    def _take(self, names: set[str], number: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        planes, origin = self._planes, self._planes.origin(number)
        if tables := names & {"objects_csv", "objects_parquet"}:
            with self._on_its_own(*tables):
                from .objects import measure

                self._measured[number] = measure(
                    mask, pixels, planes.channels, origin, self._plane_geometry
                )
        if "polygons" in names:
            with self._on_its_own("polygons"):
                from .polygons import features

                slices = [mask] if mask.ndim == 2 else mask
                pixel_um2 = self._geometry.pixel_um("YX")
                self._features[number] = [
                    text
                    for depth, labels in enumerate(slices)
                    for text in features(
                        labels, origin | {"Z": origin.get("Z", 0) + depth}, pixel_um2
                    )
                ]
        if "preview" in names and number == len(planes) // 2:
            with self._on_its_own("preview"):
                from .previews import preview

                middle = mask.shape[0] // 2
                is_volume = mask.ndim == 3
                self._preview = preview(
                    pixels[..., middle, :, :] if is_volume else pixels,
                    mask[middle] if is_volume else mask,
                    self._geometry.sizes_um("YX"),
                )

    @contextmanager
    def _on_its_own(self, *names: str) -> Iterator[None]:
        """Keep what goes wrong with these outputs from the image, whose mask is whole."""
        try:
            yield
        except (CourierError, OSError):
            raise
        # A package that does not load, memory, an image as nobody thought of.
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            self._unmade |= dict.fromkeys(names, reason)

    def _made(self, name: str, labels: MaskPixels, provenance: Mapping[str, Any]) -> OutputRecord:
        made_from = self._made_from(name)
        if name == "input_labels":
            from .input_labels import LabelsRefused

            try:
                path, facts = self._write_input_labels(labels, provenance)
            except LabelsRefused as refused:
                return OutputRecord(made_from, refused=str(refused))
            return OutputRecord(made_from, *facts, path=str(path))
        path = output_path(self._dataset_dir, self._row.image, name)
        if name not in self._unmade:
            with self._on_its_own(name), whole_or_absent(path) as part:
                self._writers[name](part, labels)
        if name in self._unmade:
            return OutputRecord(made_from, refused=self._unmade[name])
        return OutputRecord(made_from, 1, path.stat().st_size, output_sha256(path))

    @functools.cached_property
    def _writers(self) -> dict[str, Callable[[Path, MaskPixels], None]]:
        return {
            "tiff": self._write_tiff,
            "objects_csv": self._write_csv,
            "objects_parquet": self._write_parquet,
            "polygons": self._write_polygons,
            "preview": self._write_preview,
        }

    def _write_tiff(self, path: Path, labels: MaskPixels) -> None:
        from .label_tiff import write_label_tiff

        write_label_tiff(path, labels, self._geometry)

    def _write_csv(self, path: Path, labels: MaskPixels) -> None:
        from .objects import write_csv

        write_csv(path, self._table)

    def _write_parquet(self, path: Path, labels: MaskPixels) -> None:
        from .objects import write_parquet

        write_parquet(path, self._table)

    @functools.cached_property
    def _table(self) -> Any:
        from .objects import table

        planes = [self._measured[number] for number in range(len(self._planes))]
        return table(self._row.image, self._key, planes)

    def _write_polygons(self, path: Path, labels: MaskPixels) -> None:
        from .polygons import write_collection

        texts = (text for number in sorted(self._features) for text in self._features[number])
        with path.open("w", encoding="ascii") as stream:
            write_collection(stream, self._key, self._geometry, texts)

    def _write_preview(self, path: Path, labels: MaskPixels) -> None:
        from .previews import png

        assert self._preview is not None
        path.write_bytes(png(self._preview))

    def _write_input_labels(
        self, labels: MaskPixels, provenance: Mapping[str, Any]
    ) -> tuple[Path, MaskFacts]:
        from .input_labels import LabelsRefused, write_input_labels

        if isinstance(self._row.path, RemoteImage):
            raise LabelsRefused(
                f"{self._row.path} is at a URL, where no labels are written; expected a folder of"
                " this machine"
            )
        return write_input_labels(
            self._row.path,
            self._row.selection.scene,
            f"{self._dataset_dir.name}_{self._row.image}",
            labels,
            self._planes.mask_axes,
            self._planes.file_axes,
            provenance=dict(provenance),
        )


class _PlaneOf:
    """One plane of a mask, read by the part."""

    dtype = np.dtype(np.uint32)

    def __init__(self, mask: MaskPixels, position: tuple[int, ...]) -> None:
        self.shape = mask.shape[len(position) :]
        self._mask, self._position = mask, position

    def __getitem__(self, block: Any) -> Any:
        return self._mask[(*self._position, *block)]
