"""``samcourier rerun``: make the masks of a crate again and compare them with the recorded ones."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from ..deploy.targets import find_service
from ..errors import InputError
from ..formatting import plain
from ..settings.run_settings import RunSettings
from .dataset import segment_rows
from .options import SERVICE_KEYS, TRANSPORT_KEYS, example, settings_options
from .terminal import run_interruptibly

if TYPE_CHECKING:
    from ..provenance.rerun import RecordedRun
    from ..results.service_description import ServiceDescription

logger = logging.getLogger("samcourier.cli")


@click.command(epilog=example("samcourier rerun results/plate7 --out results/plate7-again"))
@click.argument("crate", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="New results folder. Without it, the crate's folder with -rerun appended to its name.",
)
@click.option(
    "--images-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the images. Each is found there by its path in the sheet or its file name.",
)
@click.option("--other-service", is_flag=True, help="Allow another engine, model or version.")
@settings_options({**SERVICE_KEYS, **TRANSPORT_KEYS})
@click.pass_context
def rerun(
    context: click.Context,
    crate: Path,
    out: Path | None,
    images_dir: Path | None,
    other_service: bool,
    settings: RunSettings,
) -> None:
    """Make the masks of the run in CRATE again and compare them with the recorded ones.

    CRATE is a results folder with its ro-crate-metadata.json. The crate sets engine, model and
    parameters; the service is a local one unless the options name another. The exit status is 1
    if an image or a mask differs from the recorded one.
    """
    from ..masks.integrity import read_provenance
    from ..provenance.rerun import differing_images, read_crate, rows_with_images_in
    from ..results.layout import mask_path

    run = read_crate(crate)
    folder = (crate if crate.is_dir() else crate.parent).resolve()
    out = out or folder.with_name(f"{folder.name}-rerun")
    _check_new(out, folder, run)
    rows = rows_with_images_in(run.rows, images_dir)
    problems = differing_images(rows, run.masks)
    for problem in problems:
        logger.error("%s", plain(problem))
    if problems:
        raise click.ClickException(
            f"{len(problems)} of {len(rows)} images differ from the recorded ones"
        )
    if context.get_parameter_source("service_engine") is ParameterSource.DEFAULT:
        engine, options = run.engine
        service = msgspec.structs.replace(
            settings.service,
            engine=engine,
            engine_options=settings.service.engine_options or options,
        )
        settings = msgspec.structs.replace(settings, service=service)
    if not other_service:
        _check_service(settings, out, run)
    # All other settings keep their defaults: the timeouts of another machine do not apply here.
    settings = msgspec.structs.replace(
        settings,
        dataset=out.resolve().name,
        batch_size=run.batch_size,
        parameters=run.parameters,
        ome_zarr=run.ome_zarr,
        tiles=run.tiles,
    )
    failure: click.ClickException | None = None
    try:
        segment_rows(settings, rows, out, run.metadata_sha256)
    except click.ClickException as error:
        failure = error
    equal_count = 0
    for row in rows:
        labels_sha256 = (read_provenance(mask_path(out, row.image)) or {}).get("labels_sha256")
        is_equal = labels_sha256 == run.masks[row.image].labels_sha256
        equal_count += is_equal
        verdict = "equal" if is_equal else "differs" if labels_sha256 else "no mask"
        click.echo(f"{row.image}\t{verdict}")
    if failure is not None:
        raise failure
    if equal_count < len(rows):
        raise click.ClickException(f"{len(rows) - equal_count} of {len(rows)} masks differ")
    logger.info("all %d masks equal the recorded ones", len(rows))


def _check_new(out: Path, folder: Path, run: RecordedRun) -> None:
    """Raise InputError for a folder with other masks, which would count as made by this rerun."""
    from ..results.environment import read_run_environment

    masks, earlier = out / "masks", read_run_environment(out)
    is_same_rerun = earlier is not None and earlier.rerun_of == run.metadata_sha256
    has_masks = masks.exists() and any(masks.iterdir())
    if out.resolve() == folder or (has_masks and not is_same_rerun):
        raise InputError(f"{out}: holds other results, expected a new folder as --out")


def _check_service(settings: RunSettings, out: Path, run: RecordedRun) -> None:
    """Start the service; raise InputError if it is not the service that made the masks."""
    from ..provenance.rerun import service_difference

    difference = service_difference(_describe(settings, out), run)
    if difference is not None:
        raise InputError(
            f"the service differs from the crate's: {difference};"
            " add --other-service to make the masks with it"
        )


def _describe(settings: RunSettings, out: Path) -> ServiceDescription:
    """Return the service's own description."""
    from ..connection import connected
    from ..results.connection_log import ConnectionJournal
    from ..transports import Replicas

    async def work() -> ServiceDescription:
        # This call precedes the run, whose journals begin with its batches.
        with ConnectionJournal(Path(os.devnull)) as journal:
            async with connected(Replicas(endpoint, settings.transport), journal, 1) as (
                _,
                description,
            ):
                return description

    endpoint = find_service(settings, out)
    return run_interruptibly(work())
