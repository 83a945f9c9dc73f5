"""``samcourier doctor``: a look before a long run."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..deploy.targets import find_service
from ..formatting import plain
from ..results.pending import images_left
from ..samples.sheet import Batch, ImageRow, make_batches, read_sheet, rows_of_subset
from .dataset import SEGMENT_BATCH_SIZE
from .options import (
    CONNECTIONS_KEYS,
    DEMAND_KEYS,
    FORM_KEYS,
    SERVICE_KEYS,
    SUBSET_KEYS,
    RunOptions,
    example,
    run_options,
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
@run_options(
    {**SERVICE_KEYS, **DEMAND_KEYS, **FORM_KEYS, **SUBSET_KEYS, **CONNECTIONS_KEYS},
    batch_size=SEGMENT_BATCH_SIZE,
)
@click.option(
    "--to-segment",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file with an id a line: the images left, whatever the manifests and masks say.",
)
def doctor(run: RunOptions, to_segment: Path | None) -> None:
    """Look at all that the run of SHEET needs, in under 20 seconds, before it begins.

    `snakemake --cores 1 doctor` does it with the options of config/config.yaml. A line each for
    server, token, service, transports, limits, disk, versions, model and time: ok, a warning or a
    failure with what to do. Exits 1 when there is a failure.
    """
    # Before the imports: on a busy machine they take seconds.
    start_s = time.monotonic()
    import uvloop

    from ..diagnostics.doctor.assess import assess_facts, has_failed
    from ..diagnostics.doctor.facts import Asked
    from ..diagnostics.doctor.gather import Here, gather_facts
    from ..diagnostics.doctor.machine import look_at_disk, look_at_pace, look_at_versions
    from ..diagnostics.forecast import forecast_files

    settings, dataset_dir = run.settings, run.dataset_dir
    assert run.sheet is not None
    rows = read_sheet(run.sheet)
    batches = make_batches(rows, settings.batch_size)
    rows = rows_of_subset(rows, settings.subset)
    left = _rows_left(rows, batches, dataset_dir, to_segment)
    keeps_embeddings = settings.embeddings == "keep"
    asked = Asked(
        target=settings.service.target,
        transport=settings.transport,
        parameters=settings.parameters,
        images_left=len(left),
        images=len(rows),
        connections=settings.network.connections,
        outputs=settings.outputs,
        keeps_embeddings=keeps_embeddings,
        embeddings_max_bytes=int(settings.embeddings_max_gb * 1e9) if keeps_embeddings else 0,
    )
    batch_count = -(-len(left) // settings.batch_size)
    form = settings.mask_container, settings.ome_zarr, settings.outputs
    is_local = settings.service.target == "local"
    here = Here(
        forecast=lambda: forecast_files(left, batch_count, *form),
        disk=lambda: look_at_disk(dataset_dir),
        versions=lambda: look_at_versions(["local"] if is_local else []),
        pace=lambda: look_at_pace(dataset_dir),
    )
    # Never closed: that would wait for a look-up of a name or a disk that hangs.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    spent_s = time.monotonic() - start_s
    try:
        facts = runner.run(
            gather_facts(
                asked, settings, lambda looked: find_service(looked, dataset_dir), here, spent_s
            )
        )
    except KeyboardInterrupt:
        raise click.Abort from None
    lines = assess_facts(facts)
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
    return rows_of_subset(rows, left)


def _print(line: Line) -> None:
    said = plain(line.said)
    mark = click.style(f"{line.status:8}", fg=_STYLES[line.status])
    click.echo(f"{mark} {line.topic:10}  {said}")
    if line.advice:
        click.echo(f"{'':20} → {plain(line.advice)}")
