"""micro-sam's errors as those of the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..contract.errors import SegmentationFailed
from .microsam_load import on_one_line

R = TypeVar("R")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the memory of the CPU or of the device did not suffice."""
    import torch

    # On the CPU torch reports exhausted memory as a RuntimeError.
    exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return exhausted or "can't allocate memory" in str(error)


def out_of_memory(device: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Return the message for images of these shapes, in pixels."""
    count = "an image" if len(shapes) == 1 else f"{len(shapes)} images"
    sizes = ", ".join(map(str, dict.fromkeys(shapes)))
    return (
        f"out of memory on {device} with {count} of {sizes} px; give the engine tile_shape and "
        "halo, a smaller model, or a device with more memory"
    )


def micro_sam_failed(error: Exception) -> SegmentationFailed:
    """Return what is raised for an error of micro-sam."""
    return SegmentationFailed(f"micro-sam failed with {on_one_line(error)}")


def memory_error_translated(call: Callable[[], R]) -> R:
    """Return the result of ``call``; raise SegmentationFailed for its MemoryError."""
    try:
        return call()
    except MemoryError as error:
        raise SegmentationFailed(str(error)) from None
