"""Write the tables of a dataset beside its report."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from ..evaluation.outcome import Outcome
from ..files.atomic import write_atomic
from .sources import TABLES, ImageTable, image_tables, tables_digest

OBJECTS = "objects.parquet"
SUMMARY = "summary.tsv"
GROUPS = "groups.tsv"

#: Tables that are read at the same time: a network file system answers each request slowly.
_CONCURRENT_READS = 8


def write_tables(
    outcomes: Sequence[Outcome], dataset_dir: Path, outputs: Sequence[str]
) -> str | None:
    """Write ``objects.parquet``, ``summary.tsv`` and ``groups.tsv`` if ``outputs`` has a table.

    Tables that are up to date are kept; without a table in ``outputs``, older ones are deleted.
    Returns why they cannot be written, or None.
    """
    paths = [dataset_dir / name for name in (OBJECTS, SUMMARY, GROUPS)]
    if not set(TABLES) & set(outputs):
        for path in paths:
            path.unlink(missing_ok=True)
        return None
    if find_spec("pyarrow") is None:
        return (
            f"{OBJECTS}, {SUMMARY} and {GROUPS} are not written where the report is made: they"
            " need: pip install 'samcourier[outputs]'"
        )
    from .objects import objects_digest, write_objects
    from .summary import groups_tsv, images_tsv, summarise_groups, summarise_image

    tables = image_tables(outcomes, dataset_dir)
    digest = tables_digest(tables)
    if objects_digest(paths[0]) == digest and all(path.is_file() for path in paths[1:]):
        return None
    if not _has_rows(tables):
        return f"{OBJECTS}: no image has a table of objects, expected the outputs of a run"
    with ThreadPoolExecutor(_CONCURRENT_READS) as executor:
        images = list(executor.map(summarise_image, tables))
    write_atomic(paths[1], images_tsv(images))
    write_atomic(paths[2], groups_tsv(summarise_groups(images)))
    write_objects(tables, paths[0], digest)
    return None


def _has_rows(tables: Sequence[ImageTable]) -> bool:
    return any(each.path is not None for each in tables)
