"""What is on the disk -> what of it holds, as a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec.structs import replace

from samcourier.failure import Failure
from samcourier.images.selection import Selection, parse_pick
from samcourier.masks.integrity import MaskContainer
from samcourier.masks.omezarr import write_mask
from samcourier.results.image_log import ImageLog, ImageSeconds, read_image_log, write_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.segmentation.existing import (
    Existing,
    NoValidResult,
    ValidFailure,
    ValidLabels,
    ValidMask,
    find_existing,
    keep_older_version,
)
from samcourier.segmentation.key import image_key
from samcourier.segmentation.prepared import Prepared
from samservice.engines.watershed_parameters import PARAMETERS

from . import one_image
from .batch_settings import batch_settings
from .one_image import prepared_image, write_image

OBJECT_COUNT = 2
OWN_FAULT = Failure("image", "NotFinite", "holds NaN")
OF_THE_SERVICE = Failure("service", "SegmentationFailed", "no GPU")

MaskState = Literal["whole", "damaged", "other key", "other form", "no count"]
LogState = Literal["done", "own fault", "service", "own fault, other key", "torn"]


def leave_mask(
    prepared: Prepared, dataset_dir: Path, container: MaskContainer, state: MaskState
) -> None:
    provenance: dict[str, Any] = prepared.provenance(OBJECT_COUNT)
    if state == "other key":
        provenance["key"] = "0" * 64
    if state == "other form":
        provenance["form"] = provenance["form"] | {"pixel_size_um": 9.0}
    if state == "no count":
        del provenance["object_count"]
    path = mask_path(dataset_dir, "cell", container)
    labels = np.arange(120, dtype=np.uint32).reshape(10, 12)
    write_mask(path, labels, "YX", provenance=provenance)
    if state == "damaged":
        chunk = path if path.is_file() else path / "0" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-1])


def leave_log(prepared: Prepared, dataset_dir: Path, state: LogState) -> None:
    path = log_path(dataset_dir, "cell")
    path.parent.mkdir(parents=True)
    log = ImageLog(
        image="cell",
        path=str(prepared.request.row.path),
        status="done" if state == "done" else "failed",
        finished_at="2026-03-01T10:00:00.000+00:00",
        seconds=ImageSeconds(total=1.0),
        key="1" * 64 if state == "own fault, other key" else prepared.key,
    )
    if state != "done":
        log = replace(log, failure=OF_THE_SERVICE if state == "service" else OWN_FAULT)
    write_image_log(path, log)
    if state == "torn":
        path.write_bytes(path.read_bytes()[:-9])


async def existing_of(
    tmp_path: Path,
    masks: dict[MaskContainer, MaskState],
    log: LogState | None,
    **settings: Any,
) -> Existing:
    """Return what holds of these masks and this log; assert that looking changed nothing."""
    batch = batch_settings(tmp_path / "results", **settings)
    async with prepared_image(write_image(tmp_path), batch) as prepared:
        for container, state in masks.items():
            leave_mask(prepared, batch.dataset_dir, container, state)
        if log is not None:
            leave_log(prepared, batch.dataset_dir, log)
        before = {path: path.stat().st_mtime_ns for path in batch.dataset_dir.rglob("*")}
        existing = find_existing(prepared, batch)
        assert {path: path.stat().st_mtime_ns for path in batch.dataset_dir.rglob("*")} == before
    return existing


@pytest.mark.parametrize(
    ("masks", "container", "outcome", "found_in"),
    [
        ({}, "folder", NoValidResult, None),
        ({"folder": "whole"}, "folder", ValidMask, "folder"),
        ({"zip": "whole"}, "zip", ValidMask, "zip"),
        ({"folder": "damaged"}, "folder", NoValidResult, None),
        ({"zip": "damaged"}, "zip", NoValidResult, None),
        ({"folder": "other key"}, "folder", NoValidResult, None),
        ({"folder": "no count"}, "folder", NoValidResult, None),
        ({"folder": "other form"}, "folder", ValidLabels, "folder"),
        ({"folder": "whole"}, "zip", ValidLabels, "folder"),
        ({"zip": "whole"}, "folder", ValidLabels, "zip"),
        ({"folder": "whole", "zip": "whole"}, "folder", ValidMask, "folder"),
        ({"folder": "whole", "zip": "whole"}, "zip", ValidMask, "zip"),
        ({"folder": "damaged", "zip": "whole"}, "folder", ValidLabels, "zip"),
        ({"folder": "other form", "zip": "whole"}, "folder", ValidLabels, "folder"),
    ],
)
@pytest.mark.parametrize("log", [None, "done", "service"])
async def test_a_complete_mask_with_the_key_is_kept_with_any_log(
    tmp_path: Path,
    masks: dict[MaskContainer, MaskState],
    container: MaskContainer,
    log: LogState | None,
    outcome: type,
    found_in: MaskContainer | None,
) -> None:
    existing = await existing_of(tmp_path, masks, log, mask_container=container)
    assert type(existing) is outcome
    assert existing.log == read_image_log(log_path(tmp_path / "results", "cell"))
    assert (existing.log is None) == (log is None)
    if isinstance(existing, ValidMask | ValidLabels):
        assert found_in is not None
        assert existing.mask == mask_path(tmp_path / "results", "cell", found_in)
        assert existing.object_count == OBJECT_COUNT


@pytest.mark.parametrize(
    ("masks", "log", "retry_failed", "outcome"),
    [
        ({}, "own fault", False, ValidFailure),
        ({}, "own fault", True, NoValidResult),
        ({}, "own fault, other key", False, NoValidResult),
        ({}, "service", False, NoValidResult),
        ({}, "done", False, NoValidResult),
        ({}, "torn", False, NoValidResult),
        ({"folder": "other key"}, "own fault", False, ValidFailure),
        ({"folder": "damaged"}, "own fault", False, ValidFailure),
        ({"folder": "whole"}, "own fault", False, ValidMask),
        ({"zip": "whole"}, "own fault", False, ValidLabels),
    ],
)
async def test_a_failure_of_the_image_s_own_holds_until_it_is_retried(
    tmp_path: Path,
    masks: dict[MaskContainer, MaskState],
    log: LogState,
    retry_failed: bool,
    outcome: type,
) -> None:
    existing = await existing_of(tmp_path, masks, log, retry_failed=retry_failed)
    assert type(existing) is outcome
    assert (existing.log is None) == (log == "torn")


@pytest.mark.parametrize(
    ("changed", "state", "replaces", "is_kept"),
    [
        ({"segmentation_version": 0}, "whole", False, True),
        ({"segmentation_version": 0, "versions": {"scripted": "0"}}, "whole", False, True),
        ({"segmentation_version": 0}, "whole", True, False),
        ({"segmentation_version": 0}, "damaged", False, False),
        ({"segmentation_version": 0}, "other key", False, False),
        ({"segmentation_version": 2}, "whole", False, False),
        ({"segmentation_version": None}, "whole", False, False),
        ({"segmentation_version": "0"}, "whole", False, False),
        ({"segmentation_version": 0, "model": "other"}, "whole", False, False),
        ({"distribution": {"name": "cells", "version": "1"}}, "whole", False, False),
        ({"segmentation_version": 0, "model_sha256": "1" * 64}, "whole", False, False),
    ],
)
@pytest.mark.parametrize("container", ["folder", "zip"])
async def test_a_complete_mask_of_an_older_version_is_kept_without_replace(
    tmp_path: Path,
    changed: dict[str, Any],
    state: MaskState,
    replaces: bool,
    is_kept: bool,
    container: MaskContainer,
) -> None:
    batch = batch_settings(tmp_path / "results", replace=replaces, mask_container=container)
    async with prepared_image(write_image(tmp_path), batch) as prepared:
        service = prepared.request.service | changed
        key = image_key(prepared.pixels_sha256, prepared.request.parameters, service)
        request = dataclasses.replace(prepared.request, service=service)
        earlier = dataclasses.replace(prepared, request=request, key=key)
        leave_mask(earlier, batch.dataset_dir, container, state)
        found = keep_older_version(prepared, batch)
        existing = find_existing(found, batch)
    assert (found.key, found.request.service) == (
        (key, service) if is_kept else (prepared.key, prepared.request.service)
    )
    assert type(existing) is (ValidMask if is_kept else NoValidResult)


@pytest.mark.parametrize(
    ("earlier", "replaces", "is_kept"),
    [
        ({"name": "cells", "version": "1.9"}, False, True),
        (None, False, True),
        ({"name": "cells", "version": "1.9"}, True, False),
        ({"name": "cells", "version": "1.11"}, False, False),
        ({"name": "other", "version": "1.9"}, False, False),
    ],
)
async def test_a_mask_of_an_older_distribution_is_kept_as_one_of_an_older_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    earlier: dict[str, str] | None,
    replaces: bool,
    is_kept: bool,
) -> None:
    current = {"name": "cells", "version": "1.10"}
    described = replace(one_image.DESCRIPTION, distribution=current)
    monkeypatch.setattr(one_image, "DESCRIPTION", described)
    batch = batch_settings(tmp_path / "results", replace=replaces)
    async with prepared_image(write_image(tmp_path), batch) as prepared:
        assert prepared.request.service["distribution"] == current
        service = prepared.request.service | {"distribution": earlier}
        key = image_key(prepared.pixels_sha256, prepared.request.parameters, service)
        request = dataclasses.replace(prepared.request, service=service)
        left = dataclasses.replace(prepared, request=request, key=key)
        leave_mask(left, batch.dataset_dir, "folder", "whole")
        found = keep_older_version(prepared, batch)
        assert type(find_existing(found, batch)) is (ValidMask if is_kept else NoValidResult)
    assert found.key == (key if is_kept else prepared.key) != (prepared.key if is_kept else key)


async def test_a_mask_of_the_current_version_is_preferred_to_an_older_one(tmp_path: Path) -> None:
    batch = batch_settings(tmp_path / "results")
    async with prepared_image(write_image(tmp_path), batch) as prepared:
        service = prepared.request.service | {"segmentation_version": 0}
        key = image_key(prepared.pixels_sha256, prepared.request.parameters, service)
        request = dataclasses.replace(prepared.request, service=service)
        earlier = dataclasses.replace(prepared, request=request, key=key)
        leave_mask(earlier, batch.dataset_dir, "folder", "whole")
        leave_mask(prepared, batch.dataset_dir, "zip", "whole")
        assert keep_older_version(prepared, batch) is prepared


@pytest.mark.parametrize("knew_geometry", [False, True])
async def test_a_volume_of_an_older_version_is_kept_with_and_without_its_geometry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knew_geometry: bool
) -> None:
    batch = batch_settings(tmp_path / "results")
    described = replace(one_image.DESCRIPTION, parameters=PARAMETERS)
    monkeypatch.setattr(one_image, "DESCRIPTION", described)
    path = write_image(tmp_path, (3, 10, 12), "ZYX")
    selection = {"selection": Selection(z=parse_pick("volume", volume=True))}
    async with prepared_image(path, batch, **selection) as prepared:
        assert prepared.parameters == {"z_aspect": 4.0} and prepared.request.parameters == {}
        service = prepared.request.service | {"segmentation_version": 0}
        parameters = prepared.parameters if knew_geometry else {}
        key = image_key(prepared.pixels_sha256, parameters, service)
        request = dataclasses.replace(prepared.request, service=service)
        earlier = dataclasses.replace(prepared, request=request, parameters=parameters, key=key)
        mask = mask_path(batch.dataset_dir, "cell", "folder")
        labels = np.arange(360, dtype=np.uint32).reshape(3, 10, 12)
        write_mask(mask, labels, "ZYX", provenance=earlier.provenance(OBJECT_COUNT))
        kept = keep_older_version(prepared, batch)
    assert (kept.key, kept.parameters) == (key, parameters)
    assert type(find_existing(kept, batch)) is ValidMask
