"""The commands that segment a dataset: demo-data, batch, segment and report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from ..errors import InputError
from ..formatting import redacted
from ..samples.discovery import find_images
from ..samples.format import found_sheet_path, known_rows, write_found_sheet
from ..samples.private_urls import with_private_urls
from ..samples.properties import ANY
from ..samples.sheet import ImageRow, read_batch, read_sheet, rows_digest, rows_of_subset
from ..settings.run_settings import RunSettings
from .options import (
    SEGMENT_KEYS,
    SERVICE_KEYS,
    SUBSET_KEYS,
    RunOptions,
    dataset_dir_option,
    example,
    run_options,
    settings_options,
)
from .terminal import batch_summary

logger = logging.getLogger("samcourier.cli")


#: Images of one batch without a workflow, where one process segments all batches.
SEGMENT_BATCH_SIZE = 25


@click.command("demo-data", epilog=example("samcourier demo-data data/demo"))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=7, show_default=True, help="Seed of the random numbers.")
def demo_data(directory: Path, seed: int) -> None:
    """Write the 24 synthetic images of the demo dataset and their ground truth to DIRECTORY."""
    from ..deploy.local.start import require_local_extra

    require_local_extra("demo-data")
    from ..samples.demo import write_demo

    click.echo(f"{len(write_demo(directory, seed))} images in {directory}", err=True)


@click.command(
    epilog=example(
        "samcourier batch --settings results/plate7/run/DIGEST.json --batch 0001 \\",
        "    --out results/plate7/batches/0001.json",
    )
)
@run_options({**SERVICE_KEYS, **SEGMENT_KEYS})
@click.option(
    "--batch", "batch_id", required=True, metavar="ID", help="Id of the batch, e.g. 0001."
)
@click.option(
    "--rows-digest",
    help="Fail unless the batch's rows of the sheet still have this digest.",
)
@click.option(
    "--made-for",
    metavar="DIGEST",
    help="Digest to write into the manifest instead of the digest of the settings.",
)
@click.option(
    "--submission",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of this submission of the batch's job. Above 1, the batch runs only if the last"
    " job was lost or had no service.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File for the batch's manifest.",
)
def batch(
    run: RunOptions,
    batch_id: str,
    rows_digest: str | None,
    made_for: str | None,
    submission: int,
    out: Path,
) -> None:
    """Segment one batch of SHEET and write its manifest to --out.

    The exit status is 0 even if single images failed: the manifest names them. It is 1 if the
    same error would stop every image, e.g. an expired token.
    """
    # A batch does no linear algebra.
    with _one_blas_thread():
        from ..pipeline.run import run_batch
    from ..results.manifest import write_manifest

    start_s = time.monotonic()
    assert run.sheet is not None
    own_batch = read_batch(run.sheet, batch_id, run.settings.batch_size, ANY)
    _check_rows(run.sheet, batch_id, own_batch.rows, rows_digest)
    own_batch = replace(
        own_batch, rows=tuple(with_private_urls(run.settings.dataset, own_batch.rows))
    )
    manifest = run_batch(run.settings, own_batch, run.dataset_dir, submission=submission)
    if made_for is not None:
        manifest = msgspec.structs.replace(manifest, made_for=made_for)
    write_manifest(out, manifest)
    click.echo(batch_summary(manifest, time.monotonic() - start_s))


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Limit the OpenBLAS of NumPy, which is imported in this context, to one thread.

    By default it starts one thread per core, which use the CPU even when idle. Child processes that
    start after this context do not inherit the variable.
    """
    name = "OPENBLAS_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


def _check_rows(sheet: Path, batch_id: str, rows: Sequence[ImageRow], expected: str | None) -> None:
    if expected not in (None, rows_digest(rows)):
        raise InputError(
            f"{sheet}: the rows of batch {batch_id} changed since the run began, expected a sheet"
            " that does not change until the run ends; run again"
        )


@click.command(epilog=example("samcourier segment /data/plate7 --dataset-dir results/plate7"))
@click.argument("inputs", nargs=-1, required=True)
@settings_options(
    {"batch_size": "--batch-size", **SERVICE_KEYS, **SEGMENT_KEYS}, batch_size=SEGMENT_BATCH_SIZE
)
@dataset_dir_option
def segment(inputs: tuple[str, ...], settings: RunSettings, dataset_dir: Path) -> None:
    """Segment image files, folders, patterns and plates, or one sample sheet (.tsv).

    The command needs no Snakemake. It writes the same results folder as the workflow, with the
    report.
    """
    rows = _rows_of(inputs, dataset_dir)
    _check_subset(settings.images or (), rows)
    segment_rows(_with_names(settings, inputs, dataset_dir), rows, dataset_dir)


def _with_names(settings: RunSettings, inputs: Sequence[str], dataset_dir: Path) -> RunSettings:
    """Return the settings with the names of the dataset and of its sheet."""
    sheet = redacted(inputs[0]) if len(inputs) == 1 else None
    return msgspec.structs.replace(settings, dataset=dataset_dir.resolve().name, sheet=sheet)


def segment_rows(
    settings: RunSettings,
    rows: Sequence[ImageRow],
    dataset_dir: Path,
    rerun_of: str | None = None,
) -> None:
    """Segment the subset of ``rows`` with progress on the terminal, and write the report.

    ``rerun_of`` is as in :func:`samcourier.pipeline.run.start_dataset`. Raises ClickException,
    after the report is written, if an image has no mask, and InputError while another run is at
    work in ``dataset_dir``.
    """
    from ..pipeline.run import segment_dataset, start_dataset
    from ..results.run_lock import locked_results
    from .terminal import progress_of

    with locked_results(dataset_dir):
        logger.info("%s", start_dataset(settings, rows, dataset_dir, rerun_of))
        subset_count = len(rows_of_subset(rows, settings.subset))
        with progress_of("segmenting", subset_count) as on_image:
            segment_dataset(settings, rows, dataset_dir, on_image)
        _report(settings, rows, dataset_dir, *_report_files(dataset_dir))


def _report_files(dataset_dir: Path) -> tuple[Path, Path, Path]:
    return (
        dataset_dir / "report.html",
        dataset_dir / "report.tsv",
        dataset_dir / "complete.json",
    )


@click.command(
    epilog=example(
        "samcourier report --settings results/plate7/run/DIGEST.json \\",
        "    --html report.html --tsv report.tsv --complete complete.json",
    )
)
@run_options(SUBSET_KEYS)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File for the report as a page.",
)
@click.option(
    "--tsv",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File for the report as a table.",
)
@click.option(
    "--complete",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File that is written only if every image has a mask.",
)
def report(run: RunOptions, html: Path, tsv: Path, complete: Path) -> None:
    """Write the report of a run; exit with status 1 if an image has no mask."""
    assert run.sheet is not None
    rows = with_private_urls(run.settings.dataset, read_sheet(run.sheet, ANY))
    _report(run.settings, rows, run.dataset_dir, html, tsv, complete)


def _report(
    settings: RunSettings,
    rows: Sequence[ImageRow],
    dataset_dir: Path,
    html: Path,
    tsv: Path,
    complete: Path,
) -> None:
    from ..pipeline.run import write_run_report

    written = write_run_report(settings, rows, dataset_dir, html, tsv, complete)
    logger.info("report: %s\nmasks:  %s", html, dataset_dir / "masks")
    if written.crate is not None:
        logger.info("crate:  %s", written.crate)
    if written.nothing_found is not None:
        logger.warning("%s", written.nothing_found)
    if missing := written.without_mask:
        shown = ", ".join(missing[:20]) + (" ..." if len(missing) > 20 else "")
        raise click.ClickException(f"{len(missing)} images have no mask: {shown}")


def _rows_of(inputs: tuple[str, ...], dataset_dir: Path) -> list[ImageRow]:
    """Return the rows of a sheet, or of the images found, whose sheet is then written."""
    if len(inputs) == 1 and inputs[0].endswith(".tsv"):
        return read_sheet(Path(inputs[0]))
    found_sheet = found_sheet_path(dataset_dir)
    found = find_images(inputs, known_rows(found_sheet))
    for remark in found.remarks:
        logger.info("%s", remark)
    write_found_sheet(found_sheet, found.rows)
    return found.rows


def _check_subset(subset: Sequence[str], rows: Sequence[ImageRow]) -> None:
    unknown = sorted(set(subset) - {row.image for row in rows})
    if unknown:
        raise InputError(f"--only {unknown[0]}: the sheet has no such image")
