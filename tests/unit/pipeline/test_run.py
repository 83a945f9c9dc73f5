"""A batch under its lock, over a connection of its own: what its manifest says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from samcourier.connection.throughput import Estimate
from samcourier.pipeline import run
from samcourier.pipeline.digests import settings_digest
from samcourier.results.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from samcourier.results.service_description import ServiceDescription
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.settings.run_settings import RunSettings
from samcourier.transports.base import Endpoint

BATCH = Batch("0001", (ImageRow("a", Path("a.tif")),))


class NothingToDo:
    """A batch run that finds each of its images as it should be."""

    def __init__(self, *_: Any) -> None:
        pass

    async def run(self, batch: Batch) -> Manifest:
        return Manifest(batch.batch_id, {row.image: ManifestEntry("done") for row in batch.rows})


@asynccontextmanager
async def no_connection(*_: Any) -> AsyncIterator[tuple[Any, ServiceDescription]]:
    manager = SimpleNamespace(current="http", estimates={"http": Estimate()})
    yield manager, ServiceDescription(engine="scripted")


def test_a_manifest_says_by_which_settings_its_masks_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint("https://h", "w", "s", "s-rtc")
    monkeypatch.setattr(run, "find_service", lambda *_: endpoint)
    monkeypatch.setattr(run, "connected", no_connection)
    monkeypatch.setattr(run, "BatchRun", NothingToDo)
    settings = RunSettings(dataset="cells")
    manifest = run.run_batch(settings, BATCH, tmp_path, lambda log: None)
    assert manifest.made_for == settings_digest(settings, BATCH.rows)
    write_manifest(tmp_path / "0001.json", manifest)
    assert read_manifest(tmp_path / "0001.json") == manifest
