"""``samcourier sheet``: write the images found to a sheet that the user can edit."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import click

from ..errors import InputError
from ..samples.discovery import find_images
from ..samples.format import COLUMNS_INSPECTED, header, lines, property_names
from ..samples.properties import ANY
from ..samples.sheet import read_sheet, sheet_columns
from ..samples.table import is_plain
from .options import example

logger = logging.getLogger("samcourier.cli")


@click.command(epilog=example("samcourier sheet /data/plate7 --out config/plate7.tsv"))
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sheet to write. Images missing from an existing sheet are appended to it."
    "  [default: stdout]",
)
def sheet(inputs: tuple[str, ...], out: Path | None) -> None:
    """Write a sample sheet of the images in folders, patterns ('*.tif'), OME-Zarr plates and URLs.

    The sheet has one row per image. Scene and pixel size come from the file. The columns for time
    points, depths and channels stay empty; a comment lists the choices. An OME-TIFF image
    that is stored in several files has one row; thumbnails and the masks of other tools are left
    out.
    """
    from ..samples.inspection import inspect_images, summarise

    known = read_sheet(out, ANY) if out is not None and out.exists() else []
    if out is not None and known and not is_plain(out.read_bytes()):
        raise InputError(
            f"{out}: a sheet in UTF-16 or separated by ';', expected a tab separated UTF-8 sheet to"
            " append images to; write a new one"
        )
    found = find_images(inputs, known)
    if found.skipped:
        kinds = Counter(path.suffix or path.name for path in found.skipped)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
        logger.info("files left out by their names: %s", counts)
    for remark in found.remarks:
        logger.info("%s", remark)
    old = {row.image for row in known}
    inspections = list(inspect_images([row for row in found.rows if row.image not in old]))
    remarks = summarise(inspections)
    rows = [row for inspection in inspections for row in inspection.rows]
    columns: tuple[str, ...] = (*COLUMNS_INSPECTED, *property_names(rows))
    text = header(columns)
    if out is not None and out.exists():
        text = out.read_text(encoding="utf-8-sig").rstrip("\n") + "\n"
        columns = sheet_columns(out)
        if "scene" not in columns and any(row.selection.scene is not None for row in rows):
            raise InputError(
                f"{out}: no column scene, expected one, since a file has several scenes"
            )
    text += "".join(f"# {remark}\n" for remark in remarks) + lines(rows, columns)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        read_sheet(out, ANY)
        logger.info("%d images added to %s" if known else "%d images in %s", len(rows), out)
    for remark in remarks:
        logger.info("%s", remark)
