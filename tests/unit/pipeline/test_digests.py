"""The digests of settings are those that manifests of earlier versions hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samcourier.pipeline.config import read_config
from samcourier.pipeline.digests import report_digest, settings_digest
from samcourier.samples.sheet import ImageRow
from samcourier.settings.run_settings import RunSettings

ROWS = [
    ImageRow(f"cell_{number}", Path(f"data/cell_{number}.tif"), pixel_size_um=0.5)
    for number in (1, 2)
]
#: Of the run that tests/workflow/results_of_ab54674.tar.xz holds.
CONFIG: dict[str, Any] = {
    "dataset": "cells",
    "sheet": "config/images.tsv",
    "batch_size": 2,
    "parameters": {"sigma_px": 2},
    "outputs": ["objects_csv"],
}
RECORDED = "06adbb176e73e618"


def test_the_digest_is_the_one_of_ab54674() -> None:
    assert settings_digest(read_config(CONFIG), ROWS) == RECORDED


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"sigma_px": 3}},
        {"parameters": {"sigma_px": 2.0}},
        {"ome_zarr": "0.5"},
        {"mask_container": "zip"},
        {"tiles": {"halo_px": 64}},
        {"service": {"engine": "microsam"}},
        {"service": {"engine": "microsam", "engine_options": {"device": "cpu"}}},
        {
            "service": {
                "target": "existing",
                "server_url": "https://hypha.example.org",
                "service_id": "s",
            }
        },
    ],
    ids=str,
)
def test_what_shapes_a_mask_changes_the_digest(change: dict[str, Any]) -> None:
    assert settings_digest(read_config({**CONFIG, **change}), ROWS) != RECORDED


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": []},
        {"transport": "http"},
        {"timeouts": {"attempt_s": 5}},
        {"images": ["cell_1"]},
        {"retry_failed": True},
        {"embeddings": "keep"},
        {"network": {"connections": 3}},
        {"service": {"cpus": 4, "memory_mb": 100, "deploy_timeout_s": 5}},
    ],
    ids=str,
)
def test_what_shapes_no_mask_does_not(change: dict[str, Any]) -> None:
    assert settings_digest(read_config({**CONFIG, **change}), ROWS) == RECORDED


def test_a_truth_changes_the_report_and_no_mask() -> None:
    settings = RunSettings(dataset="cells")
    with_truth = [ImageRow(row.image, row.path, truth=Path("truth.tif")) for row in ROWS]
    without = [ImageRow(row.image, row.path) for row in ROWS]
    assert report_digest(settings, with_truth) != report_digest(settings, without)
    assert report_digest(settings, without[:1]) != report_digest(settings, without)
    assert settings_digest(settings, with_truth) == settings_digest(settings, without)
