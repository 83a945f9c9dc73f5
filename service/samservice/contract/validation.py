"""Check the images, axes and embeddings that the service receives.

Every refusal is a :class:`~samservice.contract.errors.ServiceError` that says what was received
and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .axes import MASK_AXES
from .errors import ImageTooLarge, NotFinite, WrongAxes, WrongDtype, WrongShape
from .wire import (
    SLOW_IMAGE_CODEC,
    WireError,
    check_packed,
    is_packed,
    pack_array,
    packed_nbytes,
    unpack_array,
)

#: A last axis of at most this length is one of colours, as of RGB and RGBA.
_MOST_COLOURS = 4


def check_header(
    image: Any, axes: str | None, max_bytes: int, max_pixels: int
) -> tuple[tuple[int, ...], str]:
    """Return shape and axes of an image, packed or not, without reading its pixels.

    Raises the errors of :func:`unpack_image` except NotFinite.
    """
    if is_packed(image):
        try:
            dtype, shape = check_packed(image, max_bytes)
        except WireError as error:
            raise WrongShape(str(error)) from error
    elif isinstance(image, np.ndarray):
        dtype, shape = image.dtype, image.shape
    else:
        raise WrongDtype(f"expected an ndarray or a packed image, got {type(image).__name__}")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise WrongDtype(f"dtype {dtype} is not accepted, expected real integers or floats")
    return check_shape(shape, axes, max_pixels)


def check_shape(
    shape: tuple[int, ...], axes: str | None, max_pixels: int
) -> tuple[tuple[int, ...], str]:
    """Return shape and axes of an image; raises WrongAxes, WrongShape or ImageTooLarge."""
    axes = _checked_axes(axes, tuple(shape))
    if 0 in shape:
        raise WrongShape(f"image {axes} of shape {shape} has an empty axis")
    if math.prod(shape) > max_pixels:
        raise ImageTooLarge(f"image of shape {shape} exceeds the limit of {max_pixels} px")
    return shape, axes


def unpack_image(
    image: Any, axes: str | None, max_bytes: int, max_pixels: int
) -> tuple[np.ndarray, str]:
    """Return the image, unpacked and in native byte order, with its axes.

    Without ``axes``, two dimensions are YX and three are CYX; a last axis that looks like channels,
    as in (512, 512, 3), is refused. bool becomes uint8.

    Raises WrongDtype, WrongAxes, WrongShape, ImageTooLarge or NotFinite.
    """
    _, axes = check_header(image, axes, max_bytes, max_pixels)
    if is_packed(image):
        try:
            image = unpack_array(image, max_bytes)
        except WireError as error:
            raise WrongShape(str(error)) from error
    if image.dtype.kind == "b":
        image = image.astype(np.uint8)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad_count = int(image.size - np.count_nonzero(np.isfinite(image)))
        raise NotFinite(f"image holds {bad_count} NaN or infinite values of {image.size}")
    return np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("=")), axes


def _checked_axes(axes: str | None, shape: tuple[int, ...]) -> str:
    ndim = len(shape)
    if axes is None:
        axes = {2: "YX", 3: "CYX"}.get(ndim, "")
        if not axes:
            raise WrongAxes(f"an image of {ndim} dimensions needs axes, one of {sorted(MASK_AXES)}")
        if axes == "CYX" and shape[2] <= _MOST_COLOURS < shape[0]:
            raise WrongAxes(
                f"an image of shape {shape} without axes looks like (Y, X, channel), expected "
                "(channel, Y, X); move the last axis to the front, or give the axes"
            )
    if axes not in MASK_AXES:
        raise WrongAxes(f"axes {axes!r} are unknown, expected one of {sorted(MASK_AXES)}")
    if len(axes) != ndim:
        raise WrongAxes(f"axes {axes} need {len(axes)} dimensions, the image has {ndim}")
    return axes


def is_packed_embedding(value: object) -> bool:
    """Return True for an embedding whose arrays are packed, False for one with ndarrays."""
    return isinstance(value, Mapping) and any(is_packed(entry) for entry in value.values())


def pack_embedding(embedding: dict[str, Any]) -> dict[str, Any]:
    """Return the embedding with every ndarray packed and every other value unchanged."""
    return {
        name: pack_array(value, SLOW_IMAGE_CODEC) if isinstance(value, np.ndarray) else value
        for name, value in embedding.items()
    }


def packed_embedding_nbytes(embedding: Mapping[str, Any]) -> int:
    """Return the number of bytes of a packed embedding's arrays on the wire."""
    return sum(packed_nbytes(value) for value in embedding.values() if is_packed(value))


def check_packed_embedding(embedding: Any, max_bytes: int) -> None:
    """Check the headers of a packed embedding without unpacking it.

    Raises WrongDtype or WrongShape as :func:`unpack_embedding` does; damaged data pass.
    """
    if not isinstance(embedding, Mapping):
        raise WrongDtype(f"expected encode_image's answer, got {type(embedding).__name__}")
    try:
        for value in embedding.values():
            if is_packed(value):
                check_packed(value, max_bytes)
    except WireError as error:
        raise WrongShape(str(error)) from error


def unpack_embedding(embedding: Any, max_bytes: int, max_pixels: int) -> dict[str, Any]:
    """Undo :func:`pack_embedding`; an embedding of ndarrays is returned unchanged.

    Raises WrongDtype unless it is a dict, WrongShape for damaged arrays, and the errors of
    :func:`check_embedding`.
    """
    check_packed_embedding(embedding, max_bytes)
    try:
        unpacked = {
            str(name): unpack_array(value, max_bytes) if is_packed(value) else value
            for name, value in embedding.items()
        }
    except WireError as error:
        raise WrongShape(str(error)) from error
    check_embedding(unpacked, max_pixels)
    return unpacked


def check_embedding(embedding: Mapping[str, Any], max_pixels: int) -> None:
    """Check the ``original_size`` of an embedding, if it has one, against the limit of images.

    Raises ImageTooLarge, or WrongShape when it is not an image size.
    """
    size = embedding.get("original_size")
    if size is None:
        return
    try:
        lengths = [int(length) for length in np.asarray(size).ravel()]
    except (TypeError, ValueError):
        raise WrongShape(f"original_size {size!r:.80} is no image size") from None
    if not 2 <= len(lengths) <= 3 or min(lengths) < 1:
        raise WrongShape(f"original_size {size!r:.80} is no image size")
    if math.prod(lengths) > max_pixels:
        raise ImageTooLarge(f"embedding of an image {lengths} exceeds the limit of {max_pixels} px")
