"""One image through all stages: how its way ends, and what is known of its file then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.concurrency import Limiter
from samcourier.errors import Denied, ImageMissing, ImageUnfit, RequestRefused, ServiceFailed
from samcourier.images.planes import Plane
from samcourier.masks.integrity import is_complete
from samcourier.results.image_log import read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.samples.sheet import ImageRow
from samcourier.segmentation.events import Record
from samcourier.segmentation.image import Recorded, process_image
from samcourier.segmentation.plane import PlaneCaller, Segmented
from samcourier.segmentation.settings import Shared

from ..conftest import OVER_WEBSOCKET
from .batch_settings import batch_settings
from .one_image import DESCRIPTION, write_image


class ScriptedCaller(PlaneCaller):
    """Labels a plane, or raises ``error`` after an attempt; ``expected_calls`` are of one image."""

    def __init__(self, error: Exception | None = None) -> None:
        self.expected_calls = 1
        self._error = error

    def expect(self, more_calls: int) -> None:
        self.expected_calls += more_calls

    async def segment(self, plane: Plane, parameters: Any, record: Record, *_: Any) -> Segmented:
        record(OVER_WEBSOCKET)
        if self._error is not None:
            raise self._error
        return Segmented(np.ones((10, 12), np.uint32), 1, None)


async def process(
    root: Path, caller: ScriptedCaller, settings: dict[str, Any] | None = None, **cells: Any
) -> Recorded:
    row = ImageRow("cell", root / "cell.ome.tif", **cells)
    batch = batch_settings(root / "results", **(settings or {}))
    room = Limiter(lambda: 1)
    shared = Shared(batch, DESCRIPTION, caller, limiter=room, measuring=room)
    recorded = await process_image(row, shared)
    assert read_image_log(log_path(batch.dataset_dir, "cell")) == recorded.log
    return recorded


@pytest.mark.parametrize(
    ("raised", "cells", "expected", "attempt_count", "is_file_known"),
    [
        (None, {"model": "another"}, ImageUnfit, 0, False),
        (ServiceFailed("no GPU"), {}, ServiceFailed, 1, True),
        (Denied("the token has expired"), {}, Denied, 1, True),
        (RequestRefused("sigma=-1"), {}, RequestRefused, 1, True),
        (RequestRefused("sigma=-1"), {"parameters": {"sigma": -1}}, ImageUnfit, 1, True),
        (MemoryError("no 33 GB"), {}, MemoryError, 1, True),
        (None, {"path": None}, ImageMissing, 0, True),
    ],
)
async def test_the_error_that_ends_an_image_is_logged_and_returned(
    tmp_path: Path,
    raised: Exception | None,
    cells: dict[str, Any],
    expected: type[Exception],
    attempt_count: int,
    is_file_known: bool,
) -> None:
    if "path" not in cells:
        write_image(tmp_path)
    cells = {name: cell for name, cell in cells.items() if name != "path"}
    recorded = await process(tmp_path, ScriptedCaller(raised), **cells)
    assert type(recorded.error) is expected
    assert recorded.log.status == "failed"
    assert recorded.log.failure is not None
    assert str(recorded.error) == recorded.log.failure.message
    assert len(recorded.log.attempts) == attempt_count
    assert (recorded.file is not None) == is_file_known


@pytest.mark.parametrize(
    ("settings", "expected_calls", "is_written_again", "note"),
    [
        ({}, 0, False, None),
        ({"outputs": ["preview"]}, 0, False, None),
        ({"mask_container": "zip"}, 0, True, "mask reused: in a new form"),
        ({"ome_zarr": "0.5"}, 0, True, "mask reused: in a new form"),
        ({"parameters": {"sigma": 2}}, 1, True, None),
    ],
)
async def test_a_second_run_makes_only_missing_results(
    tmp_path: Path,
    settings: dict[str, Any],
    expected_calls: int,
    is_written_again: bool,
    note: str | None,
) -> None:
    write_image(tmp_path)
    caller = ScriptedCaller()
    first = await process(tmp_path, caller)
    assert (first.error, caller.expected_calls, first.log.object_count) == (None, 1, 1)
    path = log_path(tmp_path / "results", "cell")
    before = json.loads(path.read_text())
    caller = ScriptedCaller()
    second = await process(tmp_path, caller, settings)
    assert (second.error, caller.expected_calls) == (None, expected_calls)
    mask = mask_path(tmp_path / "results", "cell", settings.get("mask_container", "folder"))
    assert second.log.mask == str(mask)
    assert is_complete(mask)
    assert (second.log.seconds.write != first.log.seconds.write) == is_written_again
    assert second.log.note == note
    after = json.loads(path.read_text())
    assert (after == before) == (settings == {})
    assert (after["attempts"] == before["attempts"]) == (note is None)
