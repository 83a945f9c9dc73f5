"""The commands about a results folder of finished runs: check and prune."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from ..errors import InputError
from ..formatting import first_names, plain
from ..results.environment import SHEET
from .options import example


class IncompleteResults(click.ClickException):
    """Not every image of the sheet has a mask, and nothing is damaged."""

    exit_code = 3


@click.command(epilog=example("samcourier check results/plate7"))
@click.argument("dataset_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def check(dataset_dir: Path) -> None:
    """Check that the masks, logs and manifests in DATASET_DIR are complete and agree.

    The exit status is 0 if everything is complete, 1 if a file is damaged or two files disagree, 3
    if no file is damaged but images of the last run's sample sheet have no mask.
    """
    from ..evaluation.check import check_results
    from ..evaluation.requested import read_requested

    requested = read_requested(dataset_dir)
    dropped = requested.dropped if requested is not None else ()
    findings = check_results(dataset_dir, dropped)
    for finding in findings:
        click.echo(plain(str(finding)))
    if dropped:
        click.echo(
            f"{dataset_dir}: images that are no longer in the sheet: {len(dropped)}"
            f" ({first_names(dropped)}); 'samcourier prune {dataset_dir}' lists their files",
            err=True,
        )
    if findings:
        raise click.ClickException(f"{dataset_dir}: {len(findings)} findings")
    if requested is None:
        click.echo(
            f"{dataset_dir}: without findings; the folder does not say which images were asked for",
            err=True,
        )
        return
    counts = f"{len(requested.with_mask)} of {len(requested.images)} images have a mask"
    if missing := requested.without_mask:
        failed = f", {len(requested.failed)} failed" if requested.failed else ""
        subset = requested.subset
        limited = f" (the last run was limited to {first_names(subset)})" if subset else ""
        raise IncompleteResults(
            f"{dataset_dir}: without findings, but {counts}{failed}{limited}; none for"
            f" {first_names(missing)}"
        )
    click.echo(f"{dataset_dir}: complete, {counts}, without findings", err=True)


@click.command(epilog=example("samcourier prune results/plate7"))
@click.argument("dataset_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--delete", "deletes", is_flag=True, help="Delete the files instead of listing them.")
def prune(dataset_dir: Path, deletes: bool) -> None:
    """List the files in DATASET_DIR of images that were removed from the sample sheet.

    Nothing is deleted without --delete.
    """
    from ..evaluation.requested import files_of_image, read_requested
    from ..masks.omezarr import delete
    from ..results.run_lock import locked_results
    from ..results.run_record import batches_at_work

    with locked_results(dataset_dir) if deletes else nullcontext():
        requested = read_requested(dataset_dir)
        if requested is None:
            raise InputError(f"{dataset_dir}: no record of a run's sample sheet, expected {SHEET}")
        # The job of a batch may have outlived its run, which held the lock.
        if deletes and (held := batches_at_work(dataset_dir)):
            raise InputError(f"{dataset_dir}: batch {', '.join(held)} is at work; wait for its end")
        paths = [path for image in requested.dropped for path in files_of_image(dataset_dir, image)]
        for path in paths:
            click.echo(plain(str(path)))
            if deletes:
                delete(path)
    counts = f"{len(paths)} files and folders of {len(requested.dropped)} images"
    if deletes:
        click.echo(f"{counts} deleted", err=True)
    elif paths:
        click.echo(f"{counts}; --delete deletes them", err=True)
    else:
        click.echo("every image with files is in the sheet", err=True)
