"""Digests of what shapes a batch's masks and the report: what differs is made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ..files.strict_json import canonical_json
from ..samples.sheet import ImageRow, rows_digest
from ..settings.run_settings import RunSettings, ServiceSettings


def settings_digest(settings: RunSettings, rows: Sequence[ImageRow]) -> str:
    """Return 16 hex digits over all that shapes the masks of a batch of ``rows``, pixels apart.

    Manifests keep it as ``made_for``. The digest is taken over words of a command line, as it was
    when the workflow passed the settings so: results folders of that time are still up to date.
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
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


def report_digest(settings: RunSettings, rows: Sequence[ImageRow]) -> str:
    """Return 16 hex digits over what the report shows beside the masks: which images, which truth.

    ``rows`` are those asked for.
    """
    shown = [[row.image, str(row.truth) if row.truth else None] for row in rows]
    return hashlib.sha256(canonical_json([settings.batch_size, shown])).hexdigest()[:16]


def _service_words(service: ServiceSettings) -> list[str]:
    """Return the options that say which service segments."""
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
