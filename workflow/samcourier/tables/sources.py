"""The table of objects of each image, from which those of the dataset are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.outcome import Outcome
from ..results.layout import output_path

#: The outputs that have one row per object; the first that an image has is read.
TABLES = ("objects_parquet", "objects_csv")


@dataclass(frozen=True)
class ImageTable:
    """The table of one image.

    Attributes:
        image: Id of the image.
        path: The file, None for an image without a table.
        sha256: Digest of the file, from the image log.
        properties: Those of the image.
        outcome: The outcome of the image.
    """

    image: str
    path: Path | None
    sha256: str | None
    properties: Mapping[str, str]
    outcome: Outcome


def image_tables(outcomes: Sequence[Outcome], dataset_dir: Path) -> list[ImageTable]:
    """Return the table of each image with a mask, in the order of the sheet."""
    return [_table_of(outcome, dataset_dir) for outcome in outcomes]


def tables_digest(tables: Sequence[ImageTable]) -> str:
    """Return 64 hex digits over all that the tables of the dataset depend on."""
    content = [
        [each.image, each.sha256, each.outcome.status, sorted(each.properties.items())]
        for each in tables
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _table_of(outcome: Outcome, dataset_dir: Path) -> ImageTable:
    records = outcome.log.outputs if outcome.log and outcome.status == "done" else {}
    for name in TABLES:
        record = records.get(name)
        path = output_path(dataset_dir, outcome.image, name)
        if record is not None and record.refused is None and path.is_file():
            return ImageTable(outcome.image, path, record.sha256, outcome.properties, outcome)
    return ImageTable(outcome.image, None, None, outcome.properties, outcome)
