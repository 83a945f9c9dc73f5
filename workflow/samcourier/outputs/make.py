"""Make the outputs of one image that a run asks for; valid outputs of an earlier run stay."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from ..errors import InputError
from ..files.atomic import complete_or_absent
from ..images.location import RemoteImage
from ..images.planes import Plane
from ..masks.omezarr import MaskFacts, MaskPixels, opened_mask
from ..results.image_log import OutputRecord
from ..results.layout import OUTPUT_FILES, OUTPUTS, is_output_complete, output_path, output_sha256
from .parts import OF_PLANES, TABLES, OutputsSource, PlaneParts, attempt, plane_parts, read_parts

#: Increases when the same mask gives other files.
OUTPUTS_VERSION = 3
#: Added for the tables of objects when they alone become others.
_TABLES_VERSION = 1

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
class Outputs:
    """The outputs that a run asks for of one image.

    Attributes:
        dataset_dir: The results folder.
        names: Names of the outputs, of :data:`samcourier.results.layout.OUTPUTS`.
        source: The image.
        retry_refused: Whether outputs that were refused earlier are tried again.
    """

    dataset_dir: Path
    names: Collection[str]
    source: OutputsSource
    retry_refused: bool = False

    def parts_of(self, number: int, pixels: np.ndarray, mask: np.ndarray) -> PlaneParts:
        """Return what the outputs need from one plane or volume; see :func:`.parts.plane_parts`."""
        return plane_parts(self.names, self.source, number, pixels, mask)

    def make(
        self,
        recorded: Mapping[str, OutputRecord],
        mask: Path,
        provenance: Mapping[str, Any],
        first: Plane | None,
        parts: Collection[PlaneParts] = (),
    ) -> dict[str, OutputRecord]:
        """Make the outputs that are missing or damaged, and return the records of all outputs.

        Outputs of an earlier mask that the run no longer asks for are deleted.

        Args:
            recorded: The records of an earlier run.
            mask: The mask, complete on disk.
            provenance: The mask's provenance, which is also written to labels in the input.
            first: The first plane, None if it is not in memory.
            parts: :meth:`parts_of` every plane. Without them, the planes are read again.

        Raises:
            OSError: The disk fails.
            CourierError: The image cannot be read again.
        """
        valid = {name: record for name, record in recorded.items() if self._is_valid(name, record)}
        missing = [name for name in OUTPUTS if name in self.names and name not in valid]
        records = valid | self._made(missing, mask, provenance, first, parts)
        complete = {name for name, record in records.items() if record.refused is None}
        for name in OUTPUT_FILES.keys() - complete:
            self._path(name).unlink(missing_ok=True)
        return {name: records[name] for name in OUTPUTS if name in records}

    def _made(
        self,
        names: Collection[str],
        mask: Path,
        provenance: Mapping[str, Any],
        first: Plane | None,
        parts: Collection[PlaneParts],
    ) -> dict[str, OutputRecord]:
        """Make the outputs ``names`` and return their records."""
        if not names:
            return {}
        with opened_mask(mask) as labels:
            of_planes = OF_PLANES.intersection(names)
            if of_planes and not parts:
                parts = read_parts(of_planes, self.source, labels, first)
            content = _Content(self.source, tuple(parts), labels)
            return {
                name: self._input_labels(labels, provenance)
                if name == "input_labels"
                else self._file(name, content)
                for name in names
            }

    def _file(self, name: str, content: _Content) -> OutputRecord:
        path, made_from = self._path(name), self._made_from(name)
        reason = content.refused.get(name)
        if reason is None:
            _, reason = attempt(lambda: _write_whole(content, name, path))
        if reason is not None:
            return OutputRecord(made_from, refused=reason)
        return OutputRecord(made_from, 1, path.stat().st_size, output_sha256(path))

    def _input_labels(self, labels: MaskPixels, provenance: Mapping[str, Any]) -> OutputRecord:
        from .input_labels import LabelsRefused

        made_from = self._made_from("input_labels")
        try:
            path, facts = self._write_input_labels(labels, provenance)
        except LabelsRefused as refused:
            return OutputRecord(made_from, refused=str(refused))
        return OutputRecord(made_from, *facts, path=str(path))

    def _write_input_labels(
        self, labels: MaskPixels, provenance: Mapping[str, Any]
    ) -> tuple[Path, MaskFacts]:
        from .input_labels import LabelsRefused, write_input_labels

        row, planes = self.source.row, self.source.planes
        if isinstance(row.path, RemoteImage):
            raise LabelsRefused(
                f"{row.path} is at a URL, where no labels are written; expected a folder of this"
                " machine"
            )
        return write_input_labels(
            row.path,
            row.selection.scene,
            f"{self.dataset_dir.name}_{row.image}",
            labels,
            planes.mask_axes,
            planes.file_axes,
            provenance=dict(provenance),
        )

    def _is_valid(self, name: str, record: OutputRecord) -> bool:
        if record.made_from != self._made_from(name):
            return False
        if record.refused is not None:
            return not self.retry_refused
        return is_output_complete(self._path(name, record.path), record.sha256)

    def _made_from(self, name: str) -> str:
        """Return the digest of everything that the output depends on."""
        source = self.source
        version = OUTPUTS_VERSION + (_TABLES_VERSION if name in TABLES else 0)
        content = [version, name, source.key, source.row.image]
        content += [astuple(source.row.selection)]
        content += [source.geometry.record(), source.planes.geometry.record()]
        if name in TABLES:
            content += [to_builtins(source.objects)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _path(self, name: str, recorded: str | None = None) -> Path:
        return output_path(self.dataset_dir, self.source.row.image, name, recorded)


@dataclass(frozen=True)
class _Content:
    """The content of the output files: the mask, and the parts of all planes."""

    source: OutputsSource
    parts: tuple[PlaneParts, ...]
    labels: MaskPixels

    @functools.cached_property
    def refused(self) -> dict[str, str]:
        """Why an output cannot be made, by its name."""
        return {name: reason for part in self.parts for name, reason in part.refused.items()}

    @functools.cached_property
    def _table(self) -> Any:
        from .objects import table

        columns = [part.columns for part in self._in_order if part.columns is not None]
        is_volume = "Z" in self.source.planes.plane_axes
        pixel_um2 = None if is_volume else self.source.geometry.pixel_um("YX")
        return table(self.source.row.image, self.source.key, columns, pixel_um2)

    @property
    def _in_order(self) -> list[PlaneParts]:
        return sorted(self.parts, key=lambda part: part.number)

    def write(self, name: str, path: Path) -> None:
        """Write the output ``name`` to ``path``."""
        match name:
            case "tiff":
                from .label_tiff import write_label_tiff

                write_label_tiff(path, self.labels, self.source.geometry)
            case "objects_csv":
                from .objects import write_csv

                write_csv(path, self._table)
            case "objects_parquet":
                from .objects import write_parquet

                write_parquet(path, self._table)
            case "polygons":
                from .polygons import write_collection

                texts = (text for part in self._in_order for text in part.features)
                with path.open("w", encoding="ascii") as stream:
                    write_collection(stream, self.source.key, self.source.geometry, texts)
            case "preview":
                from .previews import png

                (shown,) = (part.preview for part in self.parts if part.preview is not None)
                path.write_bytes(png(shown))
            case _:
                raise ValueError(f"output {name!r}, expected one of {', '.join(OUTPUT_FILES)}")


def _write_whole(content: _Content, name: str, path: Path) -> None:
    """Write an output so that ``path`` is complete or as before."""
    with complete_or_absent(path) as part:
        content.write(name, part)
