"""The commands about a dataset: its demo, its batches, its report, its soundness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..dataset import Batch, ImageRow, make_batches, read_sheet
from ..deploy.service import ServiceOptions, find_service
from ..errors import InputError
from ..finding import find_images
from ..journal import ImageLog
from ..sheet import found_sheet_path, known_rows, write_found_sheet
from .options import (
    dataset_dir_option,
    segment_options,
    service_options,
)
from .terminal import run_interruptibly, say


@click.command("demo-data")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=7, show_default=True)
def demo_data(directory: Path, seed: int) -> None:
    """Write the 24 synthetic images of the demo dataset, with their truth, to DIRECTORY."""
    from ..deploy.local import require_local_extra

    require_local_extra("demo-data")
    from ..demo import write_demo

    click.echo(f"{len(write_demo(directory, seed))} images in {directory}", err=True)


@click.command()
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch", "batch_id", required=True, metavar="ID", help="E.g. 0001.")
@click.option("--batch-size", type=click.IntRange(1), required=True)
@service_options
@dataset_dir_option
@segment_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def batch(
    sheet: Path,
    batch_id: str,
    batch_size: int,
    service: ServiceOptions,
    dataset_dir: Path,
    out: Path,
    **segmenting: Any,
) -> None:
    """Segment one batch of SHEET and write its manifest to --out.

    Exits 0 with failed images named in the manifest; 1 when every image would fail alike.
    """
    from ..journal import write_manifest

    batches = {each.batch_id: each for each in make_batches(read_sheet(sheet), batch_size)}
    if batch_id not in batches:
        raise InputError(f"{sheet}: has no batch {batch_id!r}, expected one of 1..{len(batches)}")
    manifest = _run(batches[batch_id], service, dataset_dir, _say_outcome, **segmenting)
    write_manifest(out, manifest)


@click.command()
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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ..journal import write_manifest
    from ..run_record import start_record
    from ..store import manifest_path

    rows = _rows_of(inputs, dataset_dir)
    only = segmenting["only"]
    _check_only(only, rows)
    batches = make_batches(rows, batch_size)
    asked = [each for each in batches if not only or any(row.image in only for row in each.rows)]
    start_record(dataset_dir, asked, only=only or None)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("segmenting", total=len(only) or len(rows))

        def on_image(log: ImageLog) -> None:
            progress.advance(task)
            if log.failure is not None or not console.is_terminal:
                _say_outcome(log)

        for each in asked:
            manifest = _run(each, service, dataset_dir, on_image, **segmenting)
            write_manifest(manifest_path(dataset_dir, each.batch_id), manifest)
    _report(
        rows,
        batches,
        dataset_dir,
        only,
        dataset_dir / "report.html",
        dataset_dir / "report.tsv",
        dataset_dir / "complete.json",
    )


@click.command()
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch-size", type=click.IntRange(1), required=True)
@dataset_dir_option
@click.option("--only", multiple=True, metavar="IMAGE")
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
    _report(rows, make_batches(rows, batch_size), dataset_dir, only, html, tsv, complete)


@click.command()
@click.argument("dataset_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def check(dataset_dir: Path) -> None:
    """Tell whether the finished folder DATASET_DIR is whole: masks, logs and manifests agree."""
    from ..check import check_run

    findings = check_run(dataset_dir)
    for finding in findings:
        click.echo(str(finding))
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


def _run(
    batch: Batch,
    service: ServiceOptions,
    dataset_dir: Path,
    on_image: Callable[[ImageLog], None],
    *,
    parameters: dict[str, Any],
    transport: str,
    ome_zarr: Any,
    tile_edge_px: int,
    tile_halo_px: int,
    tiles_above_px: int,
    only: tuple[str, ...],
    retry_failed: bool,
    attempt_timeout_s: float,
    image_timeout_s: float,
) -> Any:
    """Run one batch under its lock, over a connection of its own."""
    from ..batch import BatchRun, BatchSettings, batch_lock
    from ..connection import connected
    from ..connection.measurements import measurements_path, read_measurements, write_measurements
    from ..connection.retry import Policy
    from ..journal import ConnectionJournal
    from ..store import connection_journal_path
    from ..tiles import TileSettings
    from ..transports import Replicas

    tiles = TileSettings(tile_edge_px, tile_halo_px, tiles_above_px)
    settings = BatchSettings(dataset_dir, parameters, ome_zarr, retry_failed, only or None, tiles)
    policy = Policy(attempt_timeout_s=attempt_timeout_s, image_timeout_s=image_timeout_s)

    async def work() -> Any:
        endpoint = await asyncio.to_thread(find_service, service, dataset_dir)
        shared = measurements_path(dataset_dir)
        known = read_measurements(shared, endpoint.service_id)
        with ConnectionJournal(connection_journal_path(dataset_dir, batch.batch_id)) as journal:
            async with connected(
                Replicas(endpoint, transport), journal, len(batch.rows), policy, known
            ) as (
                manager,
                description,
            ):
                try:
                    return await BatchRun(settings, manager, description, on_image).run(batch)
                finally:
                    write_measurements(
                        shared, endpoint.service_id, manager.current, manager.estimates
                    )

    with batch_lock(dataset_dir, batch.batch_id):
        return run_interruptibly(work())


def _say_outcome(log: ImageLog) -> None:
    if log.failure is not None:
        line = f"failed ({log.failure.kind}): {log.failure.name}: {log.failure.message}"
    else:
        carried = log.attempts[-1].transport if log.attempts and not log.reused else "no call"
        line = f"{log.object_count} objects, {carried}"
    say(f"{log.image}: {line}")


def _report(
    rows: list[ImageRow],
    batches: list[Batch],
    dataset_dir: Path,
    only: tuple[str, ...],
    html: Path,
    tsv: Path,
    complete: Path,
) -> None:
    from ..report import build_report, write_report
    from ..store import remove_stale_manifests

    if not only:
        remove_stale_manifests(dataset_dir, batches)
    built = build_report(rows, batches, dataset_dir, only or None)
    without_mask = write_report(built, html, tsv, complete)
    click.echo(f"report: {html}\nmasks:  {dataset_dir / 'masks'}", err=True)
    if without_mask:
        shown = ", ".join(without_mask[:20]) + (" ..." if len(without_mask) > 20 else "")
        raise click.ClickException(f"{len(without_mask)} images have no mask: {shown}")
