"""``samcourier doctor``: check before a long run that it can succeed."""

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
from ..results.pending import images_to_segment
from ..samples.private_urls import with_private_urls
from ..samples.properties import ANY
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
    help="Text file with one image id per line: the pending images. Without it, the images whose"
    " mask is missing.",
)
def doctor(run: RunOptions, to_segment: Path | None) -> None:
    """Check in under 20 seconds that a run of SHEET can start and succeed.

    `snakemake --cores 1 doctor` runs this command with the options of config/config.yaml. It
    prints one line each for server, token, service, transports, limits, disk, versions, model and
    time. Each line is ok, a warning or a failure; a failure is followed by what to do. The exit
    status is 1 if there is a failure.
    """
    # The clock starts before the imports: on a busy machine they take seconds.
    start_s = time.monotonic()
    import uvloop

    from ..diagnostics.doctor.assess import assess_facts, has_failed
    from ..diagnostics.doctor.facts import RunRequest
    from ..diagnostics.doctor.gather import MachineChecks, gather_facts
    from ..diagnostics.doctor.machine import disk_fact, pace_fact, version_facts
    from ..diagnostics.forecast import forecast_files

    settings, dataset_dir = run.settings, run.dataset_dir
    assert run.sheet is not None
    rows = with_private_urls(settings.dataset, read_sheet(run.sheet, ANY))
    batches = make_batches(rows, settings.batch_size)
    rows = rows_of_subset(rows, settings.subset)
    pending = _pending_rows(rows, batches, dataset_dir, to_segment)
    keeps_embeddings = settings.embeddings == "keep"
    request = RunRequest(
        target=settings.service.target,
        transport=settings.transport,
        parameters=settings.parameters,
        images_left=len(pending),
        images=len(rows),
        connections=settings.network.connections,
        outputs=settings.outputs,
        keeps_embeddings=keeps_embeddings,
        embeddings_max_bytes=int(settings.embeddings_max_gb * 1e9) if keeps_embeddings else 0,
    )
    batch_count = -(-len(pending) // settings.batch_size)
    form = settings.mask_container, settings.ome_zarr, settings.outputs
    is_local = settings.service.target == "local"
    checks = MachineChecks(
        forecast=lambda: forecast_files(pending, batch_count, *form),
        disk=lambda: disk_fact(dataset_dir),
        versions=lambda: version_facts(["local"] if is_local else []),
        pace=lambda: pace_fact(dataset_dir),
    )
    # The runner is never closed: closing would wait for a name lookup or a disk that hangs.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    spent_s = time.monotonic() - start_s
    try:
        facts = runner.run(
            gather_facts(
                request,
                settings,
                lambda changed: find_service(changed, dataset_dir),
                checks,
                spent_s,
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
    click.echo(f"{failures} failures, {warnings} warnings, checked in {took_s:.1f} s")
    sys.stdout.flush()
    os._exit(1 if has_failed(lines) else 0)


def _pending_rows(
    rows: list[ImageRow], batches: list[Batch], dataset_dir: Path, to_segment: Path | None
) -> list[ImageRow]:
    """Return the ``rows`` listed in the file ``to_segment``; without it, those without mask."""
    if to_segment is not None:
        pending = set(to_segment.read_text(encoding="utf-8").splitlines())
    else:
        pending = set(images_to_segment(dataset_dir, batches, {row.image for row in rows}))
    return rows_of_subset(rows, pending)


def _print(line: Line) -> None:
    message = plain(line.message)
    mark = click.style(f"{line.status:8}", fg=_STYLES[line.status])
    click.echo(f"{mark} {line.topic:10}  {message}")
    if line.advice:
        click.echo(f"{'':20} → {plain(line.advice)}")
