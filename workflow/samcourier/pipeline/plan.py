"""The plan of a run: its images, its batches, and the batches that are out of date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from msgspec import structs

from ..files.strict_json import read_json
from ..formatting import redacted
from ..results import pending
from ..results.layout import manifest_path
from ..samples.discovery import find_images, is_sheet
from ..samples.format import format_found_sheet, found_sheet_path, known_rows
from ..samples.properties import ANY
from ..samples.sheet import (
    Batch,
    ImageRow,
    make_batches,
    parse_sheet,
    read_sheet_content,
    redacted_sheet,
    rows_of_subset,
)
from ..settings.frozen import FrozenRun
from ..settings.run_settings import RunSettings
from .config import check_subset
from .digests import report_digest, settings_digest

#: The files that `samcourier demo-data data/demo` makes. No other file of that folder may become
#: an output, since Snakemake deletes outputs before it makes them again.
_DEMO_FILE = re.compile(r"data/demo/(truth/)?nuclei_(0[1-9]|1[0-9]|2[0-4])\.tif")


@dataclass(frozen=True)
class Plan:
    """A run: its settings, its results folder, and the images of its sample sheet.

    ``sheet`` is the content of the sheet and ``sheet_path`` its path. For images found in a folder,
    both are those of the sheet that samcourier writes to the results folder, and ``remarks`` has a
    line for what was left out of it or merged in it.
    """

    settings: RunSettings
    dataset_dir: Path
    sheet_path: Path
    sheet: bytes
    rows: tuple[ImageRow, ...]
    remarks: tuple[str, ...] = ()

    @cached_property
    def subset(self) -> frozenset[str] | None:
        """Ids of the images that the run is limited to, None for all images."""
        return self.settings.subset

    @cached_property
    def batches(self) -> Mapping[str, Batch]:
        """The batches that contain an image of the subset, by id."""
        return {
            batch.batch_id: batch
            for batch in make_batches(self.rows, self.settings.batch_size)
            if rows_of_subset(batch.rows, self.subset)
        }

    @cached_property
    def manifests(self) -> list[Path]:
        """The manifests of the batches, which exist when the run has ended."""
        return [manifest_path(self.dataset_dir, batch_id) for batch_id in self.batches]

    @cached_property
    def demo_files(self) -> list[str]:
        """The files of the demo dataset that the sheet names, sorted."""
        return sorted(
            {
                str(path)
                for row in self.rows
                for path in (row.path, row.truth)
                if path is not None and _DEMO_FILE.fullmatch(str(path))
            }
        )

    @property
    def complete_json(self) -> Path:
        """The file that exists only when every image has a mask."""
        return self.dataset_dir / "complete.json"

    @property
    def report_html(self) -> Path:
        return self.dataset_dir / "report.html"

    @property
    def report_tsv(self) -> Path:
        return self.dataset_dir / "report.tsv"

    @property
    def has_found_images(self) -> bool:
        """Whether the images were found in a folder instead of listed in a sheet."""
        return not is_sheet(str(self.settings.sheet))

    def settings_digest(self, batch: Batch) -> str:
        """Return the digest of all settings that shape the masks of a batch."""
        return settings_digest(self.settings, batch.rows)

    @cached_property
    def batches_to_redo(self) -> frozenset[str]:
        """Ids of the batches whose manifest is out of date, checked against the masks on disk."""
        to_redo = pending.batches_to_redo(
            self.dataset_dir,
            self.batches.values(),
            self.subset,
            self.settings.outputs,
            self.settings_digest,
        )
        if self.settings.replace:
            # Only the service knows its version, so each batch compares its own masks.
            to_redo |= {
                each for each in self.batches if manifest_path(self.dataset_dir, each).exists()
            }
        if self.settings.retry_failed:
            to_redo |= {
                each for each in self.batches if pending.has_failures(self.dataset_dir, each)
            }
        return frozenset(to_redo)

    def images_to_segment(self) -> list[str]:
        """Return the ids of the images of the subset that have no mask."""
        return pending.images_to_segment(
            self.dataset_dir, self.batches.values(), self.subset, self.settings_digest
        )

    def is_report_current(self) -> bool:
        """Return whether the report exists and shows these images with this ground truth.

        Older versions wrote no digest to ``complete.json``; then only the image ids are compared.
        """
        if not (self.report_html.exists() and self.report_tsv.exists()):
            return False
        complete = read_json(self.complete_json)
        if not isinstance(complete, dict):
            return False
        rows = rows_of_subset(self.rows, self.subset)
        digest = complete.get("report_digest")
        if digest is not None:
            return bool(digest == report_digest(self.settings, rows))
        keys = complete.get("keys")
        return isinstance(keys, dict) and keys.keys() == {row.image for row in rows}


def make_plan(settings: RunSettings) -> Plan:
    """Return the plan of a run that begins, with the images that its sheet lists now.

    Raises InputError with one line for each problem of the sheet or of the subset.
    """
    dataset_dir = Path("results", settings.dataset)
    source = Path(str(settings.sheet))
    remarks: list[str] = []
    if is_sheet(str(settings.sheet)):
        content = read_sheet_content(source)
        rows = parse_sheet(content, source, settings.properties)
        content = redacted_sheet(content, rows, source)
    else:
        source = found_sheet_path(dataset_dir)
        found = find_images([str(settings.sheet)], known_rows(source))
        rows, remarks = found.rows, found.remarks
        content = format_found_sheet(rows).encode()
    # A URL that the config names may have a signature, which no file of the results may have.
    settings = structs.replace(settings, sheet=redacted(str(settings.sheet)))
    check_subset(settings.images, {row.image for row in rows}, settings.sheet)
    return Plan(settings, dataset_dir, source, content, tuple(rows), tuple(remarks))


def plan_from_frozen(frozen: FrozenRun) -> Plan:
    """Return the plan of a run that has begun, from the files that it wrote at its start."""
    content = read_sheet_content(frozen.sheet)
    rows = parse_sheet(content, frozen.sheet, ANY)
    dataset_dir = Path("results", frozen.settings.dataset)
    return Plan(frozen.settings, dataset_dir, frozen.sheet, content, tuple(rows))
