"""The commands about a dataset: its demo, its batches, its report, its soundness."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..deploy.targets import ServiceOptions
from ..errors import InputError
from ..formatting import plain
from ..samples import sheet as dataset
from ..samples.discovery import find_images
from ..samples.format import found_sheet_path, known_rows, write_found_sheet
from ..samples.sheet import ImageRow, make_batches, read_batch, read_sheet
from .options import dataset_dir_option, example, only_option, segment_options, service_options
from .segmenting import (
    batch_in_words,
    run_batch,
    say_outcome,
    segment_rows,
    write_run_report,
)


@click.command("demo-data", epilog=example("samcourier demo-data data/demo"))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=7, show_default=True)
def demo_data(directory: Path, seed: int) -> None:
    """Write the 24 synthetic images of the demo dataset, with their truth, to DIRECTORY."""
    from ..deploy.local.start import require_local_extra

    require_local_extra("demo-data")
    from ..samples.demo import write_demo

    click.echo(f"{len(write_demo(directory, seed))} images in {directory}", err=True)


@click.command(
    epilog=example(
        "samcourier batch config/images.tsv --batch 0001 --batch-size 6 \\",
        "    --dataset-dir results/plate7 --out results/plate7/batches/0001.json",
    )
)
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch", "batch_id", required=True, metavar="ID", help="E.g. 0001.")
@click.option("--batch-size", type=click.IntRange(1), required=True)
@service_options
@dataset_dir_option
@segment_options
@click.option(
    "--rows-digest",
    help="Make it only if the sheet's rows of the batch have this digest still.",
)
@click.option("--made-for", metavar="DIGEST", help="Kept in the manifest, as it is given.")
@click.option(
    "--submission",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Above 1: make it only if the last job was lost or its service had gone.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def batch(
    sheet: Path,
    batch_id: str,
    batch_size: int,
    service: ServiceOptions,
    dataset_dir: Path,
    rows_digest: str | None,
    made_for: str | None,
    out: Path,
    **segmenting: Any,
) -> None:
    """Segment one batch of SHEET and write its manifest to --out.

    Exits 0 with failed images named in the manifest; 1 when every image would fail alike.
    """
    from ..results.manifest import write_manifest

    start_s = time.monotonic()
    own = read_batch(sheet, batch_id, batch_size)
    if rows_digest not in (None, dataset.rows_digest(own.rows)):
        raise InputError(
            f"{sheet}: the rows of batch {batch_id} changed since the run began, expected a sheet"
            " that stays as it is until the run ends; run again"
        )
    manifest = run_batch(own, service, dataset_dir, say_outcome, **segmenting)
    write_manifest(out, replace(manifest, made_for=made_for))
    click.echo(batch_in_words(manifest, time.monotonic() - start_s))


@click.command(epilog=example("samcourier segment /data/plate7 --dataset-dir results/plate7"))
@click.argument("inputs", nargs=-1, required=True)
@click.option("--batch-size", type=click.IntRange(1), default=25, show_default=True)
@service_options
@dataset_dir_option
@segment_options
def segment(
    inputs: tuple[str, ...],
    batch_size: int,
    service: ServiceOptions,
    dataset_dir: Path,
    **segmenting: Any,
) -> None:
    """Segment image files, folders, patterns and plates, or one sample sheet (.tsv).

    Without Snakemake.
    Leaves the same folder as the workflow, its report included.
    """
    rows = _rows_of(inputs, dataset_dir)
    _check_only(segmenting["only"], rows)
    segment_rows(inputs, rows, batch_size, service, dataset_dir, **segmenting)


@click.command(
    epilog=example(
        "samcourier report config/images.tsv --batch-size 6 --dataset-dir results/plate7 \\",
        "    --html report.html --tsv report.tsv --complete complete.json",
    )
)
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch-size", type=click.IntRange(1), required=True)
@dataset_dir_option
@only_option
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--tsv", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--complete", type=click.Path(dir_okay=False, path_type=Path), required=True)
def report(
    sheet: Path,
    batch_size: int,
    dataset_dir: Path,
    only: tuple[str, ...],
    html: Path,
    tsv: Path,
    complete: Path,
) -> None:
    """Write the report of a run. Exits 1, after writing, when an image has no mask."""
    rows = read_sheet(sheet)
    write_run_report(rows, make_batches(rows, batch_size), dataset_dir, only, html, tsv, complete)


@click.command(epilog=example("samcourier check results/plate7"))
@click.argument("dataset_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def check(dataset_dir: Path) -> None:
    """Tell whether the finished folder DATASET_DIR is whole: masks, logs and manifests agree."""
    from ..evaluation.check import check_run

    findings = check_run(dataset_dir)
    for finding in findings:
        click.echo(plain(str(finding)))
    if findings:
        raise click.ClickException(f"{dataset_dir}: {len(findings)} findings")
    click.echo(f"{dataset_dir}: whole", err=True)


def _rows_of(inputs: tuple[str, ...], dataset_dir: Path) -> list[ImageRow]:
    """Return the rows of a sheet, or of what is found, of which a sheet is kept."""
    if len(inputs) == 1 and inputs[0].endswith(".tsv"):
        return read_sheet(Path(inputs[0]))
    kept = found_sheet_path(dataset_dir)
    rows = find_images(inputs, known_rows(kept)).rows
    write_found_sheet(kept, rows)
    return rows


def _check_only(only: tuple[str, ...], rows: list[ImageRow]) -> None:
    unknown = sorted(set(only) - {row.image for row in rows})
    if unknown:
        raise InputError(f"--only {unknown[0]}: the sheet has no such image")
