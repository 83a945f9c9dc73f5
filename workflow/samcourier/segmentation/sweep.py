"""Segment one plane with several sets of parameters, and with one use of the device if possible.

A service with ``states`` keeps what its device gave for the plane, so the pixels are sent, and go
through the device, once for each choice of the ``inference_parameters``. The labels are those of
:meth:`.plane.PlaneCaller.segment` with each set.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samservice.contract.image_reference import image_reference, pixels_sha256
from samservice.contract.image_statistics import ImageStatistics

from ..concurrency import cancel_all
from ..files.strict_json import canonical_json
from ..images.planes import Plane
from .events import Record
from .plane import KeptState, PlaneCaller, Segmented

#: A state that is dropped this often, before it is used, is not asked for again.
_MAX_LOSSES = 3

#: Besides the sets in the service, this many are unpacked or wait to be taken.
_BESIDE_CALLS = 2

Parameters = Mapping[str, Any]


@dataclass
class _Inferred:
    """What is known of the state of the sets with equal inference parameters."""

    is_refused: bool
    kept: KeptState | None = None
    #: Held while the plane is sent, so that the other sets wait for its state.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Sweep:
    def __init__(
        self,
        caller: PlaneCaller,
        plane: Plane,
        record: Record,
        number: int | None,
        statistics: ImageStatistics | None,
    ) -> None:
        self._caller = caller
        self._plane = plane
        self._record = record
        self._number = number
        self._statistics = statistics
        self._inferred: dict[bytes, _Inferred] = {}
        self._packed: asyncio.Task[dict[str, Any]] | None = None
        self._reference: dict[str, Any] = {}

    async def start(self) -> None:
        """Name the plane by the digest of the pixels that the service segments."""
        pixels = self._plane.pixels
        values = pixels.view(np.uint8) if pixels.dtype == bool else pixels
        digest = await asyncio.to_thread(pixels_sha256, values, self._plane.axes)
        self._reference = image_reference(digest, pixels.shape)

    async def close(self) -> None:
        """End what goes on in the background."""
        await cancel_all([] if self._packed is None else [self._packed])

    async def segment(self, parameters: Parameters) -> Segmented:
        """Segment with one set: from the state if there is one, else from the pixels."""
        inferred = self._inferred_with(parameters)
        for _ in range(_MAX_LOSSES):
            async with inferred.lock:
                if inferred.kept is None and not inferred.is_refused:
                    return await self._segment_keeping(parameters, inferred)
                kept = inferred.kept
            if kept is None:
                break
            found = await self._caller.segment_kept(
                *(self._plane, self._reference, kept, parameters, self._record, self._number),
                self._statistics,
            )
            if found is not None:
                return found
            # The call that was in vain is not the one that is expected.
            self._caller.expect(1)
            if inferred.kept is kept:
                inferred.kept = None
        return await self._caller.segment(
            self._plane, parameters, self._record, self._number, statistics=self._statistics
        )

    async def _segment_keeping(self, parameters: Parameters, inferred: _Inferred) -> Segmented:
        if self._packed is None:
            self._packed = asyncio.ensure_future(self._caller.packed(self._plane, self._record))
        # Several sets wait for it, and one of them may be cancelled.
        image = await asyncio.shield(self._packed)
        segmented, inferred.kept = await self._caller.segment_keeping(
            self._plane, image, parameters, self._record, self._number, self._statistics
        )
        inferred.is_refused = inferred.kept is None
        return segmented

    def _inferred_with(self, parameters: Parameters) -> _Inferred:
        described = self._caller.description
        schemas = described.parameters or {}
        values = {
            name: parameters.get(name, schemas.get(name, {}).get("default"))
            for name in described.inference_parameters
        }
        can_keep = described.states and described.wire is not None
        return self._inferred.setdefault(canonical_json(values), _Inferred(not can_keep))


async def segment_sets(
    caller: PlaneCaller,
    plane: Plane,
    parameter_sets: Sequence[Parameters],
    record: Record,
    number: int | None = None,
    statistics: ImageStatistics | None = None,
) -> AsyncIterator[Segmented]:
    """Segment ``plane`` with each set of parameters, and yield the masks in the order of the sets.

    Args:
        caller: Calls the service; the connection expects one call for the plane.
        plane: The plane, volume or tile.
        parameter_sets: The sets, each as for :meth:`.plane.PlaneCaller.segment`.
        record: Gets seconds and attempts, as there.
        number: The plane's index in an image of several planes.
        statistics: For a tile, those of its plane.

    Raises the error of the first set, in their order, that cannot be segmented.
    """
    caller.expect(len(parameter_sets) - 1)
    sweep = _Sweep(caller, plane, record, number, statistics)
    waiting, tasks = deque(parameter_sets), deque[asyncio.Task[Segmented]]()
    try:
        await sweep.start()
        while waiting or tasks:
            while waiting and len(tasks) < caller.capacity + _BESIDE_CALLS:
                tasks.append(asyncio.ensure_future(sweep.segment(waiting.popleft())))
            yield await tasks[0]
            tasks.popleft()
    finally:
        caller.expect(-len(waiting))
        await cancel_all(tasks)
        await sweep.close()
