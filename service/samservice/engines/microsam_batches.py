"""How many planes may go through micro-sam's encoder and decoder together.

On a GPU the result of a plane may depend on the number of planes beside it. Labels must not, so
only batches whose results are equal to the bit are allowed. The libraries choose their kernels by
the sizes of the arrays, not by their values, so that random planes show it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .microsam_stages import ScaledPlane

MAX_BATCH = 16
#: The share of the device's free memory that a batch may use.
_MEMORY_SHARE = 0.8

Maps = Mapping[str, npt.NDArray[np.float32]]
MapsOf = Callable[[Sequence[ScaledPlane]], Sequence[Maps]]


def batch_size(planes: int, largest: int) -> int:
    """Return the size of the next batch of ``planes`` that wait: a power of two.

    ``largest`` is one as well. Only powers of two are compared with single planes.
    """
    return min(1 << (planes.bit_length() - 1), largest)


def largest_equal_batch(maps_of: MapsOf, side_px: int, limit: int) -> int:
    """Return the largest power of two, at most ``limit``, up to which batches equal single planes.

    ``maps_of`` infers planes together and may raise MemoryError; ``side_px`` is the side of the
    encoder's input. Each plane of each batch is compared to the bit.
    """
    planes = random_planes(min(limit, MAX_BATCH), side_px)
    alone = [maps_of([plane])[0] for plane in planes] if limit > 1 else []
    size = 1
    while size * 2 <= len(alone):
        try:
            together = maps_of(planes[: size * 2])
        except MemoryError:
            break
        if not all(map(_are_equal, alone, together)):
            break
        size *= 2
    return size


def random_planes(count: int, side_px: int) -> list[ScaledPlane]:
    """Return planes of random pixels."""
    rng = np.random.default_rng(0)
    shape = (count, side_px, side_px, 3)
    pixels = rng.integers(0, 256, shape, np.uint8)
    return [ScaledPlane(each, (side_px, side_px)) for each in pixels]


def affordable_batch(infer_one: Callable[[], object], device: str) -> int:
    """Return how many planes the free memory of a CUDA device suffices for, 1 to MAX_BATCH.

    ``infer_one`` infers one plane; its peak is taken for each plane of a batch.
    """
    import torch

    infer_one()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    infer_one()
    one_bytes = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(min(max(free_bytes * _MEMORY_SHARE // max(one_bytes, 1), 1), MAX_BATCH))


def _are_equal(first: Maps, second: Maps) -> bool:
    return all(
        np.array_equal(first[name].view(np.uint32), second[name].view(np.uint32)) for name in first
    )
