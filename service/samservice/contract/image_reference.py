"""The digest of an image's pixels, and the request that names an image by it.

A service that keeps the state of an image (see ``keep_state`` of ``segment_all``) takes such a
request in place of the pixels::

    {"image_sha256": "9f86d0...", "shape": [2048, 2048]}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import WrongParameter

_IMAGE_SHA256 = "image_sha256"
_KEYS = {_IMAGE_SHA256, "shape"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def pixels_sha256(array: np.ndarray, axes: str) -> str:
    """Return the SHA-256 over dtype, shape, axes and little-endian bytes of ``array``."""
    digest = started_sha256(array.dtype, array.shape, axes)
    digest.update(little_endian(array).data)
    return digest.hexdigest()


def started_sha256(dtype: np.dtype, shape: tuple[int, ...], axes: str) -> hashlib._Hash:
    """Return the hash of :func:`pixels_sha256` before the pixels."""
    return hashlib.sha256(f"{dtype.newbyteorder('<').str} {shape} {axes}\n".encode())


def little_endian(array: np.ndarray) -> np.ndarray:
    """Return the array, contiguous and in the byte order in which it is hashed."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def image_reference(image_sha256: str, shape: Sequence[int]) -> dict[str, Any]:
    """Return the request that names an image of ``shape`` by its :func:`pixels_sha256`.

    The service computes the digest of the pixels that it segments: native types, and uint8 for
    bool.
    """
    return {_IMAGE_SHA256: image_sha256, "shape": list(shape)}


def is_image_reference(value: object) -> bool:
    """Return True for a request of :func:`image_reference`; only its marker is checked."""
    return isinstance(value, Mapping) and _IMAGE_SHA256 in value


def checked_reference(value: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return digest and shape of a received reference; raise WrongParameter if it is malformed."""
    if set(value) != _KEYS:
        raise WrongParameter(
            f"an image named by its digest needs the keys {sorted(_KEYS)}, "
            f"got {sorted(map(str, value))}"
        )
    digest, shape = value[_IMAGE_SHA256], value["shape"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise WrongParameter(f"image_sha256 {digest!r:.80}, expected 64 hexadecimal digits")
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise WrongParameter(f"shape {shape!r:.80}, expected a list of lengths in pixels")
    return digest, tuple(shape)
