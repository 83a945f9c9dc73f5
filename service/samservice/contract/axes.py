"""The axes of images and masks."""

from __future__ import annotations

#: Axes of an image the service takes, and of the mask it returns for it (the same less C).
MASK_AXES = {"YX": "YX", "CYX": "YX", "ZYX": "ZYX", "CZYX": "ZYX"}


def mask_shape(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """Return the shape of the mask of an image: the image's less its channel axis."""
    return tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "C")
