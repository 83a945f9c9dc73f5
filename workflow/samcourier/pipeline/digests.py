"""Digests of the settings behind a batch's masks and the report; a new digest means a new run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from msgspec import to_builtins

from ..files.strict_json import canonical_json
from ..samples.sheet import ImageRow, rows_digest
from ..settings.run_settings import ObjectSettings, RunSettings, ServiceSettings


def settings_digest(settings: RunSettings, rows: Sequence[ImageRow]) -> str:
    """Return 16 hex digits over all settings that shape the masks of ``rows``, without the pixels.

    Manifests keep the digest as ``made_for``. It covers the options of a command line, since
    earlier versions passed the settings in that form: their results folders stay up to date.
    """
    tiles = settings.tiles
    shaping = [
        rows_digest(rows),
        _service_words(settings.service),
        settings.parameters,
        settings.ome_zarr,
        settings.mask_container,
        [
            *("--tile-edge-px", tiles.edge_px, "--tile-halo-px", tiles.halo_px),
            *("--tiles-above-px", tiles.above_px),
        ],
    ]
    # The tables of objects are made again with other columns; by default as in earlier versions.
    if settings.objects != ObjectSettings():
        shaping.append(to_builtins(settings.objects))
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


def report_digest(settings: RunSettings, rows: Sequence[ImageRow]) -> str:
    """Return 16 hex digits over the batch size, and the images, truth and properties of the report.

    ``rows`` are the rows of the subset. Without properties, the digest is that of earlier versions.
    """
    shown = [
        [row.image, str(row.truth) if row.truth else None, *sorted(row.properties.items())]
        for row in rows
    ]
    return hashlib.sha256(canonical_json([settings.batch_size, shown])).hexdigest()[:16]


def _service_words(service: ServiceSettings) -> list[str]:
    """Return the options that identify the service."""
    words = ["--target", service.target]
    if service.target != "existing":
        options = json.dumps(service.engine_options, sort_keys=True)
        words += ["--engine", service.engine, "--engine-options", options]
    if service.target != "local":
        words += _named(service, "server_url", "workspace")
    if service.target == "existing":
        words += _named(service, "service_id")
    return words


def _named(service: ServiceSettings, *keys: str) -> list[str]:
    return [
        word
        for key in keys
        if getattr(service, key) is not None
        for word in (f"--{key.replace('_', '-')}", str(getattr(service, key)))
    ]
