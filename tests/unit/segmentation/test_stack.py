"""Planes of a stack -> one mask: what each plane reports, and what ends all of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.concurrency import Limiter
from samcourier.errors import ImageChanged, ServiceFailed
from samcourier.images.pixel_cache import PIXELS
from samcourier.images.planes import Plane
from samcourier.images.selection import Selection, parse_pick
from samcourier.outputs.parts import PlaneParts
from samcourier.results.image_log import Attempt
from samcourier.segmentation.events import Event, Record, TimeSpent
from samcourier.segmentation.plane import PlaneCaller, Segmented
from samcourier.segmentation.prepared import Prepared
from samcourier.segmentation.stack import PartsOf, segment_stack

from ..conftest import OVER_WEBSOCKET
from .batch_settings import batch_settings
from .one_image import prepared_image, write_image

MOVIE = Selection(t=parse_pick("all", volume=False))
PLANE_COUNT = 4
NOTES = {0: "late", 1: "early", 3: "early"}


class ScriptedCaller(PlaneCaller):
    """Labels a plane by its number, the first plane last; ``fails`` is the plane that fails."""

    def __init__(self, fails: int | None = None) -> None:
        self.expected_calls = 1
        self._fails = fails
        self._others = asyncio.Semaphore(0)

    def expect(self, more_calls: int) -> None:
        self.expected_calls += more_calls

    async def segment(
        self,
        plane: Plane,
        parameters: Any,
        record: Record,
        number: int | None = None,
        *_: Any,
    ) -> Segmented:
        assert number is not None
        if number == 0:
            for _other in range(PLANE_COUNT - 1):
                await self._others.acquire()
        if number == self._fails:
            raise ServiceFailed("no GPU")
        record(OVER_WEBSOCKET)
        self._others.release()
        return Segmented(np.full((10, 12), number, np.uint32), number, NOTES.get(number))


async def segmented(
    prepared: Prepared, caller: ScriptedCaller, record: Record, parts_of: PartsOf | None = None
) -> Segmented:
    return await segment_stack(prepared, caller, Limiter(lambda: PLANE_COUNT), record, parts_of)


async def test_planes_get_their_position_in_any_order_of_arrival(
    tmp_path: Path,
) -> None:
    path = write_image(tmp_path, (PLANE_COUNT, 10, 12), "TYX")
    caller, events = ScriptedCaller(), list[Event]()
    seen: dict[int, tuple[int, int]] = {}

    def parts_of(number: int, pixels: np.ndarray, mask: np.ndarray) -> PlaneParts:
        seen[number] = (int(pixels[0, 0]), int(mask[0, 0]))
        return PlaneParts(number)

    async with prepared_image(path, batch_settings(tmp_path), selection=MOVIE) as prepared:
        made = await segmented(prepared, caller, events.append, parts_of)
    expected = np.arange(PLANE_COUNT, dtype=np.uint32)[:, np.newaxis, np.newaxis]
    np.testing.assert_array_equal(made.mask[...], np.broadcast_to(expected, (4, 10, 12)))
    assert (made.object_count, made.note) == (0 + 1 + 2 + 3, "early; late")
    assert sorted(part.number for part in made.parts) == list(range(PLANE_COUNT))
    assert seen == {number: (120 * number, number) for number in range(PLANE_COUNT)}
    assert caller.expected_calls == PLANE_COUNT
    stages = [event.stage for event in events if isinstance(event, TimeSpent)]
    assert stages == ["read"] * PLANE_COUNT


async def test_a_failed_plane_keeps_the_reports_of_the_others(tmp_path: Path) -> None:
    path = write_image(tmp_path, (PLANE_COUNT, 10, 12), "TYX")
    events: list[Event] = []
    async with prepared_image(path, batch_settings(tmp_path), selection=MOVIE) as prepared:
        caller = ScriptedCaller(fails=0)
        with pytest.raises(ServiceFailed, match="no GPU"):
            await segmented(prepared, caller, events.append)
    assert len([event for event in events if isinstance(event, Attempt)]) == PLANE_COUNT - 1


async def test_pixels_other_than_those_of_the_key_have_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Planes that are kept from the first look cannot differ from it.
    monkeypatch.setattr(PIXELS, "limit_bytes", 0)
    path = write_image(tmp_path, (PLANE_COUNT, 10, 12), "TYX")
    async with prepared_image(path, batch_settings(tmp_path), selection=MOVIE) as prepared:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            offset = tiff.pages[2].dataoffsets[0]
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(b"\xff\xff")
        with pytest.raises(
            ImageChanged, match=r"cell\.ome\.tif: changed while it was being processed"
        ):
            await segmented(prepared, ScriptedCaller(), [].append)
