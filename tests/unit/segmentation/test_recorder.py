"""Values and events of the stages -> the log of one image."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec import structs

from samcourier.errors import ServiceFailed, StorageFailed
from samcourier.files.strict_json import read_json
from samcourier.images.selection import Selection, parse_pick
from samcourier.results.image_log import Attempt, ImageLog, OutputRecord, write_image_log
from samcourier.segmentation.events import TilesKept, TimeSpent, timed
from samcourier.segmentation.finish import Finished
from samcourier.segmentation.prepared import Prepared
from samcourier.segmentation.recorder import Recorder
from samcourier.tiling.grid import TileSettings

from ..conftest import OVER_WEBSOCKET, WEBRTC_FAILED
from .batch_settings import batch_settings
from .one_image import prepared_image, write_image

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "workflow/schemas/image-log.schema.json").read_text()
)
RECORDS = {"preview": OutputRecord("0123456789abcdef", 1, 10, "0" * 64)}


@pytest.fixture
async def prepared(tmp_path: Path) -> AsyncIterator[Prepared]:
    settings = batch_settings(
        tmp_path, parameters={"sigma": 1}, tiles=TileSettings(edge_px=8, halo_px=2, above_px=100)
    )
    selection = Selection(t=parse_pick("all", volume=False))
    path = write_image(tmp_path, (3, 10, 12), "TYX")
    async with prepared_image(path, settings, selection=selection) as prepared:
        yield prepared


@pytest.fixture
def finished(prepared: Prepared, tmp_path: Path) -> Finished:
    return Finished(tmp_path / "cell.ome.zarr", 5, "a note", prepared.file, RECORDS)


def of_the_image(log: ImageLog) -> tuple[Any, ...]:
    return (log.key, log.pixels_sha256, log.shape, log.dtype, log.axes, log.planes, log.tiles)


def of_the_mask(log: ImageLog) -> tuple[Any, ...]:
    return (log.mask, log.object_count, log.note, log.outputs)


def check_schema(tmp_path: Path, log: ImageLog) -> None:
    write_image_log(tmp_path / "log.json", log)
    jsonschema.validate(read_json(tmp_path / "log.json"), SCHEMA)


UNKNOWN = (None, None, None, None, None, 1, 1)
NO_MASK = (None, None, None, {})


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_failed_log_has_the_values_of_the_earlier_stages(
    tmp_path: Path, prepared: Prepared, is_prepared: bool
) -> None:
    recorder = Recorder(prepared.request)
    log = recorder.failed(ServiceFailed("no GPU"), prepared if is_prepared else None)
    known = (prepared.key, prepared.pixels_sha256, (3, 10, 12), "uint16", "TYX", 3, 4)
    assert log.status == "failed"
    assert log.failure is not None
    assert (log.failure.kind, log.failure.message) == ("service", "no GPU")
    assert of_the_image(log) == (known if is_prepared else UNKNOWN)
    assert of_the_mask(log) == NO_MASK
    assert (log.image, log.parameters) == ("cell", {"sigma": 1})
    assert log.service["model"] == "threshold"
    check_schema(tmp_path, log)


def test_a_failure_after_the_mask_was_written_names_the_mask(
    prepared: Prepared, finished: Finished
) -> None:
    error = StorageFailed("no space left")
    log = Recorder(prepared.request).failed(error, prepared, finished)
    assert log.status == "failed"
    assert of_the_mask(log) == (str(finished.mask), 5, "a note", RECORDS)


def test_a_done_log_has_no_failure(tmp_path: Path, prepared: Prepared, finished: Finished) -> None:
    log = Recorder(prepared.request).done(prepared, finished)
    assert (log.status, log.failure, log.reused) == ("done", None, False)
    assert of_the_mask(log) == (str(finished.mask), 5, "a note", RECORDS)
    check_schema(tmp_path, log)


def test_events_are_added_up_and_attempts_are_in_the_order_of_their_start(
    prepared: Prepared,
) -> None:
    recorder = Recorder(prepared.request)
    later = structs.replace(OVER_WEBSOCKET, plane=1)
    for event in (
        TimeSpent("read", 1.0),
        later,
        TilesKept(2),
        TimeSpent("pack", 0.25),
        WEBRTC_FAILED,
        TimeSpent("read", 0.5),
        TilesKept(3),
    ):
        recorder.record(event)
    log = recorder.failed(ServiceFailed("no GPU"), prepared)
    assert log.attempts == (WEBRTC_FAILED, later)
    assert (log.seconds.read, log.seconds.pack, log.tiles_kept) == (1.5, 0.25, 5)
    assert (log.seconds.unpack, log.seconds.write, log.seconds.outputs) == (None, None, None)


def test_all_time_until_the_image_is_prepared_is_for_reading(prepared: Prepared) -> None:
    recorder = Recorder(prepared.request)
    assert recorder.failed(ServiceFailed("no GPU")).seconds.read is None
    recorder.record_prepared()
    seconds = recorder.failed(ServiceFailed("no GPU"), prepared).seconds
    assert seconds.read is not None
    assert 0 < seconds.read <= seconds.total


@pytest.mark.parametrize(
    ("status", "is_same_key", "holds"),
    [("done", True, True), ("done", False, False), ("failed", True, False), (None, True, False)],
)
@pytest.mark.parametrize("records", [RECORDS, {}], ids=["same outputs", "other outputs"])
def test_an_earlier_log_of_the_same_mask_holds_but_for_its_outputs(
    prepared: Prepared,
    finished: Finished,
    status: Any,
    is_same_key: bool,
    holds: bool,
    records: dict[str, OutputRecord],
) -> None:
    earlier = None
    if status is not None:
        recorder = Recorder(prepared.request)
        recorder.record(OVER_WEBSOCKET)
        earlier = structs.replace(recorder.done(prepared, finished), status=status)
        if not is_same_key:
            earlier = structs.replace(earlier, key="0" * 64)
    log = Recorder(prepared.request).reused(
        prepared, replace(finished, note=None, outputs=records), earlier
    )
    if holds:
        assert earlier is not None
        assert log == structs.replace(earlier, outputs=records)
        assert (log == earlier) == (records == RECORDS)
    else:
        note = "mask reused: a whole mask with this key was there"
        assert (log.status, log.key, log.reused) == ("done", prepared.key, True)
        assert of_the_mask(log) == (str(finished.mask), 5, note, records)
        assert log.attempts == ()


def test_the_time_of_work_that_fails_is_recorded_too() -> None:
    events: list[Attempt | TimeSpent | TilesKept] = []
    with pytest.raises(OSError), timed("write", events.append):
        raise OSError(28, "No space left on device")
    (event,) = events
    assert isinstance(event, TimeSpent)
    assert (event.stage, event.seconds >= 0) == ("write", True)
