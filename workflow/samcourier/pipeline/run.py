"""Segment images and write the report, as a run without Snakemake or as a job of a workflow."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import uvloop

from ..connection import connected
from ..connection.shared_measurements import (
    measurements_path,
    read_measurements,
    write_measurements,
)
from ..connection.time_limits import Policy
from ..deploy.targets import find_service
from ..outputs.make import require_outputs_extra
from ..results.connection_log import ConnectionJournal
from ..results.environment import write_run_environment, write_sheet
from ..results.image_log import ImageLog
from ..results.layout import connection_journal_path, manifest_path
from ..results.manifest import Manifest, write_manifest
from ..results.pending import remove_stale_manifests
from ..results.run_record import batching_digest, start_record
from ..samples.sheet import Batch, ImageRow, make_batches, rows_of_subset
from ..segmentation.batch import BatchRun, batch_lock
from ..segmentation.embedding_cache import EmbeddingStore
from ..segmentation.settings import BatchSettings
from ..settings.run_settings import RunSettings
from ..transports import Replicas
from .digests import report_digest, settings_digest
from .finished_masks import check_replacement, find_finished_masks

if TYPE_CHECKING:
    from ..diagnostics.forecast import Forecast

logger = logging.getLogger("samcourier.pipeline")


@dataclass(frozen=True)
class WrittenReport:
    """The result of writing a report.

    ``without_mask`` are ids of images, ``crate`` is the path of the crate, None if none was
    written. ``nothing_found`` is a sentence if many images have no object, else None.
    """

    without_mask: tuple[str, ...]
    crate: Path | None
    nothing_found: str | None


def run_batch(
    settings: RunSettings,
    batch: Batch,
    dataset_dir: Path,
    on_image: Callable[[ImageLog], None] | None = None,
    submission: int = 1,
) -> Manifest:
    """Segment one batch under its lock, over its own connection; return its manifest.

    ``on_image`` is called with the log of each image that ended. ``submission`` is as in
    :func:`samcourier.segmentation.batch.batch_lock`. Raises the errors of
    :meth:`samcourier.segmentation.batch.BatchRun.run`.
    """
    require_outputs_extra(settings.outputs)
    embeddings = embedding_store(settings, dataset_dir)
    batch_settings = BatchSettings(dataset_dir, settings, embeddings)

    async def work() -> Manifest:
        endpoint = await asyncio.to_thread(find_service, settings, dataset_dir)
        shared = measurements_path(dataset_dir)
        rows = rows_of_subset(batch.rows, settings.subset)
        known = read_measurements(shared, endpoint.service_id)
        replicas = Replicas(endpoint, settings.transport)
        with ConnectionJournal(connection_journal_path(dataset_dir, batch.batch_id)) as journal:
            async with connected(replicas, journal, len(rows), _policy(settings), known) as (
                manager,
                description,
            ):
                finished = find_finished_masks(
                    rows, dataset_dir, settings, msgspec.to_builtins(description)
                )
                for line in check_replacement(finished, settings):
                    logger.warning("%s", line, extra={"batch": batch.batch_id})
                try:
                    run = BatchRun(batch_settings, manager, description, on_image)
                    return await run.run(batch)
                finally:
                    write_measurements(
                        shared, endpoint.service_id, manager.current, manager.estimates
                    )

    with batch_lock(dataset_dir, batch.batch_id, submission):
        manifest: Manifest = uvloop.run(work())
    if embeddings is not None and (summary := embeddings.summary()):
        logger.warning("%s", summary, extra={"batch": batch.batch_id})
    return msgspec.structs.replace(manifest, made_for=settings_digest(settings, batch.rows))


def start_dataset(
    settings: RunSettings,
    rows: Sequence[ImageRow],
    dataset_dir: Path,
    rerun_of: str | None = None,
) -> Forecast:
    """Record the start of a run without Snakemake; return the forecast of the files it will make.

    ``rerun_of`` is as in :class:`samcourier.results.environment.RunEnvironment`. Raises InputError
    while a batch of an earlier run that divided the sheet into other batches still runs, or if the
    settings forbid that the run replaces finished masks.
    """
    from ..diagnostics.forecast import forecast_files

    batches = batches_of_subset(settings, rows)
    to_make = rows_of_subset(rows, settings.subset)
    check_replacement(find_finished_masks(to_make, dataset_dir, settings), settings)
    forecast = forecast_files(
        to_make, len(batches), settings.mask_container, settings.ome_zarr, settings.outputs
    )
    start_record(
        dataset_dir, batches, only=settings.subset, cut=batching_digest(rows, settings.batch_size)
    )
    command: Literal["segment", "rerun"] = "segment" if rerun_of is None else "rerun"
    write_run_environment(
        dataset_dir,
        command,
        msgspec.to_builtins(settings),
        rows,
        segment_options=_command_options(settings),
        rerun_of=rerun_of,
    )
    return forecast


def batches_of_subset(settings: RunSettings, rows: Sequence[ImageRow]) -> list[Batch]:
    """Return the batches of ``rows`` that contain an image of the subset."""
    subset = settings.subset
    batches = make_batches(rows, settings.batch_size)
    return [each for each in batches if rows_of_subset(each.rows, subset)]


def segment_dataset(
    settings: RunSettings,
    rows: Sequence[ImageRow],
    dataset_dir: Path,
    on_image: Callable[[ImageLog], None],
) -> None:
    """Segment the subset of ``rows`` batch by batch and write the manifests.

    ``on_image`` is called with the log of each image that ended. Raises the errors of
    :func:`run_batch`.
    """
    for batch in batches_of_subset(settings, rows):
        manifest = run_batch(settings, batch, dataset_dir, on_image)
        write_manifest(manifest_path(dataset_dir, batch.batch_id), manifest)


def write_run_report(
    settings: RunSettings,
    rows: Sequence[ImageRow],
    dataset_dir: Path,
    html: Path,
    tsv: Path,
    complete: Path,
) -> WrittenReport:
    """Write report, tables of the dataset and crate, and ``complete`` if every image has a mask."""
    from ..evaluation.nothing_found import nothing_found_sentence
    from ..evaluation.run import build_report
    from ..provenance.crate import write_crate
    from ..report import write_report
    from ..tables.write import write_tables

    batches = make_batches(rows, settings.batch_size)
    if not settings.images:
        remove_stale_manifests(dataset_dir, batches)
    built = build_report(rows, batches, dataset_dir, settings.subset)
    digest = report_digest(settings, rows_of_subset(rows, settings.subset))
    without_mask = write_report(built, html, tsv, complete, digest)
    if (problem := write_tables(built.outcomes, dataset_dir, settings.outputs)) is not None:
        logger.warning("%s", problem)
    # A run that only writes its report may have a sheet with other truths or fewer images.
    write_sheet(dataset_dir, rows)
    return WrittenReport(
        tuple(without_mask), write_crate(built), nothing_found_sentence(built.outcomes)
    )


def embedding_store(settings: RunSettings, dataset_dir: Path) -> EmbeddingStore | None:
    """Return the store of the run's embeddings, None if the run keeps none."""
    folder = settings.embeddings_dir(dataset_dir)
    if folder is None:
        return None
    return EmbeddingStore(folder, int(settings.embeddings_max_gb * 1e9))


def _policy(settings: RunSettings) -> Policy:
    policy = Policy(
        attempt_timeout_s=settings.timeouts.attempt_s, image_timeout_s=settings.timeouts.image_s
    )
    if settings.service.target != "slurm":
        return policy
    # A lost job of the service is submitted again and may wait in SLURM's queue.
    return replace(policy, outage_limit_s=settings.service.deploy_timeout_s)


def _command_options(settings: RunSettings) -> list[str]:
    """Return the options of ``samcourier segment`` that shape the masks, for the crate."""
    service, tiles = settings.service, settings.tiles
    return [
        *("--engine", service.engine),
        *("--engine-options", json.dumps(service.engine_options)),
        *("--parameters", json.dumps(settings.parameters)),
        *("--ome-zarr", settings.ome_zarr),
        *("--tile-edge-px", str(tiles.edge_px), "--tile-halo-px", str(tiles.halo_px)),
        *("--tiles-above-px", str(tiles.above_px)),
    ]
