"""One plane or volume to the service and its mask back: pack, call, unpack, check."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from samservice.image_statistics import ImageStatistics
from samservice.labels import count_objects
from samservice.wire import WireError, is_packed, pack_array, packed_nbytes, unpack_array

from .connection import ConnectionManager
from .connection.call import Answer, Call, CallFailed
from .connection.choose import image_codec
from .connection.estimate import Payload
from .draft import Draft
from .errors import ServiceFailed
from .journal import Attempt
from .masks import MaskPixels, check_mask
from .planes import Plane

#: Masks compress far better than images; only the first image's prediction needs a guess.
FIRST_GUESS_DOWN_SHARE = 0.05


@dataclass(frozen=True)
class Segmented:
    """A mask that fits, uint32, with the number of its objects and what the service noted."""

    mask: MaskPixels
    object_count: int
    note: str | None


class PlaneCaller:
    """Calls ``segment_all`` with what a service takes, by its ``describe()``."""

    def __init__(self, manager: ConnectionManager, description: dict[str, Any]) -> None:
        self._manager = manager
        self._packs = "wire" in description
        self._max_image_bytes = int(description.get("limits", {}).get("max_image_bytes", 1 << 31))
        self._down_share = FIRST_GUESS_DOWN_SHARE

    async def segment(
        self,
        plane: Plane,
        draft: Draft,
        number: int | None = None,
        tile: int | None = None,
        statistics: ImageStatistics | None = None,
    ) -> Segmented:
        """Return the plane's mask; seconds and attempts go to ``draft``.

        ``number`` is the plane's in an image of several. A tile comes with its number and the
        statistics of its plane. Raises the failure that decided.
        """
        with draft.stage("pack"):
            image: Any = plane.pixels
            up_bytes = image.nbytes
            if self._packs:
                codec = image_codec(self._manager.up_bytes_per_s)
                image = await asyncio.to_thread(pack_array, plane.pixels, codec)
                up_bytes = packed_nbytes(image)

        async def accept(value: Any) -> Segmented:
            with draft.stage("unpack"):
                return await asyncio.to_thread(self._received, value, plane)

        arguments = {"image_or_embedding": image, **draft.parameters}
        if self._packs:
            arguments["axes"] = plane.axes
        if statistics is not None:
            arguments["image_statistics"] = statistics.to_wire()
        payload = Payload(up_bytes, int(up_bytes * self._down_share))
        try:
            answer: Answer[Segmented] = await self._manager.call(
                Call("segment_all", arguments, payload, accept)
            )
        except CallFailed as failed:
            draft.attempts += _of(failed.attempts, number, tile)
            raise failed.cause from failed
        draft.attempts += _of(answer.attempts, number, tile)
        self._down_share = answer.attempts[-1].bytes.down / max(up_bytes, 1)
        return answer.value

    def _received(self, value: Any, plane: Plane) -> Segmented:
        """Unpack an answer; raise ServiceFailed when the mask does not fit its image."""
        note, mask = None, value
        if isinstance(value, dict) and is_packed(value.get("mask")):
            note = value.get("note")
            try:
                mask = unpack_array(value["mask"], self._max_image_bytes)
            except WireError as error:
                raise ServiceFailed(f"the mask cannot be unpacked: {error}") from error
        mask = check_mask(mask, plane.pixels.shape, plane.axes)
        return Segmented(mask, count_objects(mask), None if note is None else str(note))


def _of(attempts: tuple[Attempt, ...], plane: int | None, tile: int | None) -> tuple[Attempt, ...]:
    return tuple(replace(each, plane=plane, tile=tile) for each in attempts)
