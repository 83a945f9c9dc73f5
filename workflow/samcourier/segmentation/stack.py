"""Segment an image of several planes or volumes with concurrent calls into one mask."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import numpy as np

from ..concurrency import Limiter, together
from ..images.planes import stack_sha256
from ..images.readers import check_fits_memory
from ..outputs.parts import PlaneParts
from .events import Record, timed
from .plane import PlaneCaller, Segmented
from .prepared import Prepared, image_changed

#: Called with the index, pixels and mask (uint32) of one plane or volume.
PartsOf = Callable[[int, np.ndarray, np.ndarray], PlaneParts]


async def segment_stack(
    prepared: Prepared,
    caller: PlaneCaller,
    limiter: Limiter,
    record: Record,
    parts_of: PartsOf | None = None,
) -> Segmented:
    """Return the mask of a stack; object ids are separate in each plane.

    ``limiter`` limits the concurrent calls. ``parts_of`` is called for each plane, in a thread, in
    any order; its results are returned with the mask. Raises ImageChanged if the pixels no longer
    have the digest of ``prepared``, ImageUnfit if the mask does not fit into memory, and the error
    of any plane.
    """
    planes = prepared.planes
    check_fits_memory(planes.path, 4 * math.prod(planes.mask_shape))
    mask = np.zeros(planes.mask_shape, np.uint32)
    digests = [""] * len(planes)
    parts: list[PlaneParts] = []
    object_count = 0
    # A dict keeps the order in which the answers came.
    notes: dict[str, None] = {}
    caller.expect(len(planes) - 1)

    async def segment_one(number: int) -> None:
        nonlocal object_count
        async with limiter.slot():
            with timed("read", record):
                plane = await asyncio.to_thread(planes.read, number)
            digests[number] = plane.pixels_sha256
            segmented = await caller.segment(plane, prepared.parameters, record, number)
            object_count += segmented.object_count
            if segmented.note:
                notes[segmented.note] = None
            labels = np.asarray(segmented.mask)
            if parts_of is not None:
                parts.append(await asyncio.to_thread(parts_of, number, plane.pixels, labels))
            mask[planes.position(number)] = labels

    await together(segment_one(number) for number in range(len(planes)))
    if stack_sha256(digests, planes.stack_axes, planes.stack_shape) != prepared.pixels_sha256:
        raise image_changed(planes.path)
    return Segmented(mask, object_count, "; ".join(notes) or None, tuple(parts))
