"""The axes of images and masks."""

from __future__ import annotations

#: The axes that an image may have, and the axes of its mask: the same without C.
MASK_AXES = {"YX": "YX", "CYX": "YX", "ZYX": "ZYX", "CZYX": "ZYX"}


def mask_shape(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """Return the shape of an image's mask: the image's shape without its channel axis."""
    return tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "C")
