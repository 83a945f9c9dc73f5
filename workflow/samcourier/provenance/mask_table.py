"""Write and read ``provenance/masks.tsv``: one row per image, with the hashes of pixels and labels.

The images are in a table and not in the crate's metadata, because no tool could read the metadata
of 10 000 images in reasonable time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.outcome import Outcome
from ..formatting import format_tsv
from ..masks.omezarr import labels_sha256, read_mask
from ..results.environment import FOLDER
from ..results.layout import find_mask

TABLE = FOLDER / "masks.tsv"

_IMAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_SHA256 = re.compile("([0-9a-f]{64})?")
_STATUS = re.compile("done|failed|missing")
_COUNT = re.compile("[0-9]{0,18}")


@dataclass(frozen=True)
class MaskRow:
    """The result of one image. All values are text, and an unknown value is "".

    ``status`` is done, failed or missing, ``failure`` the failure class. ``pixels_sha256`` is the
    digest of the pixels that were sent, ``labels_sha256`` that of the mask
    (:func:`samcourier.masks.omezarr.labels_sha256`), ``key`` that of pixels, parameters and model.
    ``objects`` is the number of objects. ``service`` is the number of the service in
    ``provenance/services.json``, counted from 1.
    """

    image: str
    batch: str
    status: str
    pixels_sha256: str
    labels_sha256: str
    key: str
    objects: str
    service: str
    failure: str
    finished_at: str


COLUMNS = tuple(each.name for each in fields(MaskRow))


def make_rows(
    outcomes: Iterable[Outcome], dataset_dir: Path
) -> tuple[list[MaskRow], list[dict[str, Any]]]:
    """Return the row of each outcome, and the services that the rows refer to by number."""
    services: list[dict[str, Any]] = []
    rows = []
    for outcome in outcomes:
        log = outcome.log
        number = ""
        if log is not None and log.service:
            if log.service not in services:
                services.append(log.service)
            number = str(services.index(log.service) + 1)
        is_done = outcome.status == "done"
        rows.append(
            MaskRow(
                image=outcome.image,
                batch=outcome.batch_id,
                status=outcome.status,
                pixels_sha256=(log.pixels_sha256 if log else None) or "",
                labels_sha256=_labels_sha256(dataset_dir, outcome) if is_done else "",
                key=outcome.key or "",
                objects="" if outcome.object_count is None else str(outcome.object_count),
                service=number,
                failure=log.failure.kind if log and log.failure else "",
                finished_at=log.finished_at if log else "",
            )
        )
    return rows, services


def _labels_sha256(dataset_dir: Path, outcome: Outcome) -> str:
    """Return the digest stored in the mask; an older mask has none, so it is computed."""
    if outcome.labels_sha256 is not None:
        return outcome.labels_sha256
    return labels_sha256(read_mask(find_mask(dataset_dir, outcome.image)))


def table_tsv(rows: Iterable[MaskRow]) -> str:
    """Return the table as tab-separated text with a header."""
    return format_tsv([COLUMNS, *map(astuple, rows)])


def read_table(path: Path) -> dict[str, MaskRow]:
    """Return the rows by image id. Raises InputError for an unreadable file or a bad line."""
    rows: dict[str, MaskRow] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a table of masks") from None
    if tuple(lines[0].split("\t")) != COLUMNS:
        raise InputError(f"{path}, line 1: expected the columns {', '.join(COLUMNS)}")
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        cells = line.split("\t")
        row = MaskRow(*cells) if len(cells) == len(COLUMNS) else None
        if row is None or not _is_valid(row) or row.image in rows:
            raise InputError(
                f"{path}, line {number}: {line[:80]!r} is not a row of a table of masks"
            )
        rows[row.image] = row
    return rows


def _is_valid(row: MaskRow) -> bool:
    digests = (row.pixels_sha256, row.labels_sha256, row.key)
    return (
        _IMAGE.fullmatch(row.image) is not None
        and _STATUS.fullmatch(row.status) is not None
        and all(_SHA256.fullmatch(digest) for digest in digests)
        and all(_COUNT.fullmatch(count) for count in (row.objects, row.service))
    )
