"""What ``batch``, ``segment`` and ``rerun`` share: images to masks, then the report of the run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..deploy.targets import ServiceOptions, find_service
from ..results.image_log import ImageLog
from ..results.manifest import Manifest
from ..samples.sheet import Batch, ImageRow, asked_rows, make_batches
from ..segmentation.embedding_cache import EmbeddingStore
from .terminal import run_interruptibly, say


def _run_config(
    inputs: Sequence[str],
    dataset_dir: Path,
    batch_size: int,
    service: ServiceOptions,
    segmenting: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the options of ``segment`` as the workflow's config says the same."""
    return {
        "dataset": dataset_dir.name,
        "sheet": inputs[0] if len(inputs) == 1 else None,
        "batch_size": batch_size,
        "images": list(segmenting["only"]) or None,
        "retry_failed": segmenting["retry_failed"],
        "service": {
            "target": service.target,
            "engine": service.engine,
            "engine_options": service.engine_options,
            "server_url": service.server_url,
            "service_id": service.service_id,
        },
        "parameters": segmenting["parameters"],
        "transport": segmenting["transport"],
        "timeouts": {
            "attempt_s": segmenting["attempt_timeout_s"],
            "image_s": segmenting["image_timeout_s"],
        },
        "tiles": {
            "edge_px": segmenting["tile_edge_px"],
            "halo_px": segmenting["tile_halo_px"],
            "above_px": segmenting["tiles_above_px"],
        },
        "ome_zarr": segmenting["ome_zarr"],
        "mask_container": segmenting["mask_container"],
        "outputs": list(segmenting["outputs"]),
    }


def segment_rows(
    inputs: Sequence[str],
    rows: list[ImageRow],
    batch_size: int,
    service: ServiceOptions,
    dataset_dir: Path,
    rerun_of: str | None = None,
    **segmenting: Any,
) -> None:
    """Segment every row asked for, batch by batch, and write the report.

    ``inputs`` is what ``rows`` were found by, ``rerun_of`` as in Circumstances.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ..diagnostics.forecast import files_ahead
    from ..results.environment import keep_circumstances
    from ..results.layout import manifest_path
    from ..results.manifest import write_manifest
    from ..results.run_record import cut_of, start_record

    only = frozenset(segmenting["only"]) or None
    batches = make_batches(rows, batch_size)
    asked = [each for each in batches if asked_rows(each.rows, only)]
    to_make = asked_rows(rows, only)
    form = segmenting["mask_container"], segmenting["ome_zarr"], segmenting["outputs"]
    say(str(files_ahead(to_make, len(asked), *form)))
    start_record(dataset_dir, asked, only=only, cut=cut_of(rows, batch_size))
    config = _run_config(inputs, dataset_dir, batch_size, service, segmenting)
    keep_circumstances(
        dataset_dir,
        "segment" if rerun_of is None else "rerun",
        config,
        rows,
        segment_options=_command_options(config),
        rerun_of=rerun_of,
    )
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("segmenting", total=len(to_make))

        def on_image(log: ImageLog) -> None:
            progress.advance(task)
            if log.failure is not None or not console.is_terminal:
                say_outcome(log)

        for each in asked:
            manifest = run_batch(each, service, dataset_dir, on_image, **segmenting)
            write_manifest(manifest_path(dataset_dir, each.batch_id), manifest)
    write_run_report(
        rows,
        batches,
        dataset_dir,
        segmenting["only"],
        dataset_dir / "report.html",
        dataset_dir / "report.tsv",
        dataset_dir / "complete.json",
    )


def _command_options(config: Mapping[str, Any]) -> list[str]:
    """Return what of ``samcourier segment`` shapes the masks, for who reads the crate."""
    service, tiles = config["service"], config["tiles"]
    return [
        *("--engine", service["engine"]),
        *("--engine-options", json.dumps(service["engine_options"])),
        *("--parameters", json.dumps(config["parameters"])),
        *("--ome-zarr", config["ome_zarr"]),
        *("--tile-edge-px", str(tiles["edge_px"]), "--tile-halo-px", str(tiles["halo_px"])),
        *("--tiles-above-px", str(tiles["above_px"])),
    ]


def run_batch(
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
    mask_container: Any,
    outputs: tuple[str, ...],
    only: tuple[str, ...],
    retry_failed: bool,
    attempt_timeout_s: float,
    image_timeout_s: float,
    submission: int = 1,
    make_store: Callable[[Path], EmbeddingStore | None] = lambda dataset_dir: None,
) -> Any:
    """Run one batch under its lock, over a connection of its own; return its manifest.

    ``submission`` as in :func:`samcourier.segmentation.batch.batch_lock`.
    """
    from ..connection import connected
    from ..connection.retry import Policy
    from ..connection.shared_measurements import (
        measurements_path,
        read_measurements,
        write_measurements,
    )
    from ..outputs.make import require_outputs_extra
    from ..results.connection_log import ConnectionJournal
    from ..results.layout import connection_journal_path
    from ..segmentation.batch import BatchRun, batch_lock
    from ..segmentation.settings import BatchSettings
    from ..tiling.grid import TileSettings
    from ..transports import Replicas

    require_outputs_extra(outputs)
    embeddings = make_store(dataset_dir)
    settings = BatchSettings(
        dataset_dir,
        parameters,
        ome_zarr,
        mask_container,
        retry_failed,
        frozenset(only) or None,
        TileSettings(tile_edge_px, tile_halo_px, tiles_above_px),
        embeddings,
        outputs,
    )
    policy = Policy(attempt_timeout_s=attempt_timeout_s, image_timeout_s=image_timeout_s)
    if service.target == "slurm":
        # A job that is lost is submitted again, and may wait in the queue.
        policy = replace(policy, gone_patience_s=service.app.deploy_timeout_s)

    async def work() -> Any:
        endpoint = await asyncio.to_thread(find_service, service, dataset_dir)
        shared = measurements_path(dataset_dir)
        images = len(asked_rows(batch.rows, settings.only))
        known = read_measurements(shared, endpoint.service_id)
        with ConnectionJournal(connection_journal_path(dataset_dir, batch.batch_id)) as journal:
            async with connected(Replicas(endpoint, transport), journal, images, policy, known) as (
                manager,
                description,
            ):
                try:
                    return await BatchRun(settings, manager, description, on_image).run(batch)
                finally:
                    write_measurements(
                        shared, endpoint.service_id, manager.current, manager.estimates
                    )

    with batch_lock(dataset_dir, batch.batch_id, submission):
        manifest = run_interruptibly(work())
    if embeddings is not None and (lost := embeddings.summary()):
        say(lost)
    return manifest


def batch_in_words(manifest: Manifest, seconds: float) -> str:
    """Return the line that ends a batch in the log of a run."""
    statuses = Counter(entry.status for entry in manifest.images.values())
    said = f"batch {manifest.batch}: {statuses['done']} done, {statuses['failed']} failed"
    return f"{said} in {seconds:.0f} s"


def say_outcome(log: ImageLog) -> None:
    if log.failure is not None:
        line = f"failed ({log.failure.kind}): {log.failure.name}: {log.failure.message}"
    else:
        carried = log.attempts[-1].transport if log.attempts and not log.reused else "no call"
        line = f"{log.object_count} objects, {carried}"
    say(f"{log.image}: {line}")
    for name, output in log.outputs.items():
        if output.refused is not None:
            say(f"{log.image}: no {name}: {output.refused}")


def write_run_report(
    rows: list[ImageRow],
    batches: list[Batch],
    dataset_dir: Path,
    only: tuple[str, ...],
    html: Path,
    tsv: Path,
    complete: Path,
) -> None:
    """Write report and crate. Raises ClickException, after writing, for images without mask."""
    from ..provenance.crate import write_crate
    from ..report import build_report, write_report
    from ..results.pending import remove_stale_manifests

    if not only:
        remove_stale_manifests(dataset_dir, batches)
    built = build_report(rows, batches, dataset_dir, frozenset(only) or None)
    without_mask = write_report(built, html, tsv, complete)
    crate = write_crate(built)
    say(f"report: {html}\nmasks:  {dataset_dir / 'masks'}")
    if crate is not None:
        say(f"crate:  {crate}")
    if without_mask:
        shown = ", ".join(without_mask[:20]) + (" ..." if len(without_mask) > 20 else "")
        raise click.ClickException(f"{len(without_mask)} images have no mask: {shown}")
