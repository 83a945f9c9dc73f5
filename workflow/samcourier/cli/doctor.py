"""``samcourier doctor``: a look before a long run."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from ..deploy.targets import ServiceOptions, find_service
from ..formatting import plain
from ..results.pending import images_left
from ..samples.sheet import Batch, ImageRow, asked_rows, make_batches, read_sheet
from ..segmentation.embedding_cache import EmbeddingStore
from .options import (
    dataset_dir_option,
    embedding_options,
    example,
    mask_container_option,
    ome_zarr_option,
    only_option,
    output_option,
    parameters_option,
    service_options,
    transport_option,
)

if TYPE_CHECKING:
    from ..diagnostics.doctor.lines import Line

_STYLES = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command(
    epilog=example(
        "samcourier doctor config/images.tsv --batch-size 25 --target existing \\",
        "    --server-url https://hypha.aicell.io --service-id samservice \\",
        "    --token-file ~/.hypha-token --dataset-dir results/plate7",
    )
)
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--batch-size", type=click.IntRange(1), default=25, show_default=True)
@service_options
@dataset_dir_option
@transport_option
@parameters_option
@embedding_options
@ome_zarr_option
@mask_container_option
@output_option
@only_option
@click.option(
    "--to-segment",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file with an id a line: the images left, whatever the manifests and masks say.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=150,
    show_default=True,
    help="That the run may have at once.",
)
def doctor(
    sheet: Path,
    batch_size: int,
    service: ServiceOptions,
    dataset_dir: Path,
    transport: str,
    parameters: dict[str, Any],
    make_store: Callable[[Path], EmbeddingStore | None],
    ome_zarr: Any,
    mask_container: Any,
    outputs: tuple[str, ...],
    only: tuple[str, ...],
    to_segment: Path | None,
    connections: int,
) -> None:
    """Look at all that the run of SHEET needs, in under 20 seconds, before it begins.

    `snakemake --cores 1 doctor` does it with the options of config/config.yaml. A line each for
    server, token, service, transports, limits, disk, versions, model and time: ok, a warning or a
    failure with what to do. Exits 1 when there is a failure.
    """
    # Before the imports: on a busy machine they take seconds.
    start_s = time.monotonic()
    from ..diagnostics.doctor.facts import Asked
    from ..diagnostics.doctor.gather import Here, gather_facts
    from ..diagnostics.doctor.judge import has_failed, judge
    from ..diagnostics.doctor.machine import look_at_disk, look_at_pace, look_at_versions
    from ..diagnostics.forecast import files_ahead

    rows = read_sheet(sheet)
    batches = make_batches(rows, batch_size)
    rows = asked_rows(rows, frozenset(only) or None)
    left = _rows_left(rows, batches, dataset_dir, to_segment)
    store = make_store(dataset_dir)
    asked = Asked(
        target=service.target,
        transport=transport,
        parameters=parameters,
        images_left=len(left),
        images=len(rows),
        connections=connections,
        outputs=outputs,
        keeps_embeddings=store is not None,
        embeddings_max_bytes=store.max_bytes if store is not None else 0,
    )
    batch_count = -(-len(left) // batch_size)
    here = Here(
        forecast=lambda: files_ahead(left, batch_count, mask_container, ome_zarr, outputs),
        disk=lambda: look_at_disk(dataset_dir),
        versions=lambda: look_at_versions(["local"] if service.target == "local" else []),
        pace=lambda: look_at_pace(dataset_dir),
    )
    # Never closed: that would wait for a look-up of a name or a disk that hangs.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    spent_s = time.monotonic() - start_s
    try:
        facts = runner.run(
            gather_facts(
                asked, service, lambda options: find_service(options, dataset_dir), here, spent_s
            )
        )
    except KeyboardInterrupt:
        raise click.Abort from None
    lines = judge(facts)
    for line in lines:
        _print(line)
    took_s = time.monotonic() - start_s
    failures, warnings = (
        sum(line.status == status for line in lines) for status in ("failure", "warning")
    )
    click.echo(f"{failures} failures, {warnings} warnings, looked at in {took_s:.1f} s")
    sys.stdout.flush()
    os._exit(1 if has_failed(lines) else 0)


def _rows_left(
    rows: list[ImageRow], batches: list[Batch], dataset_dir: Path, to_segment: Path | None
) -> list[ImageRow]:
    """Return those of ``rows`` in the file ``to_segment``, without one those without their mask."""
    if to_segment is not None:
        left = set(to_segment.read_text(encoding="utf-8").splitlines())
    else:
        left = set(images_left(dataset_dir, batches, {row.image for row in rows}))
    return asked_rows(rows, left)


def _print(line: Line) -> None:
    said = plain(line.said)
    mark = click.style(f"{line.status:8}", fg=_STYLES[line.status])
    click.echo(f"{mark} {line.topic:10}  {said}")
    if line.advice:
        click.echo(f"{'':20} → {plain(line.advice)}")
