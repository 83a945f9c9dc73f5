"""The wire format: pack images and masks into bytes, and unpack them, in service and client.

A packed array is a plain dict that every Hypha transport carries unchanged::

    {"wire": 1, "dtype": "<u2", "shape": [2048, 2048], "codec": "blosc-lz4", "data": b"..."}

Codecs were chosen by measurement: bit-shuffled Blosc for images, plain Zstandard for masks
(shuffling makes packed labels larger). All come from numcodecs, which zarr depends on.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numcodecs import Blosc, Zstd

WIRE_VERSION = 1

#: Fast links: packing is cheaper than sending the bytes it saves above about 30 MB/s.
FAST_IMAGE_CODEC = "blosc-lz4"
#: For slow links: smaller, at a third of the speed.
SLOW_IMAGE_CODEC = "blosc-zstd"
MASK_CODEC = "zstd"

_CODECS: dict[str, Blosc | Zstd] = {
    FAST_IMAGE_CODEC: Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE),
    SLOW_IMAGE_CODEC: Blosc("zstd", clevel=1, shuffle=Blosc.BITSHUFFLE),
    MASK_CODEC: Zstd(level=1),
}
CODECS = (*_CODECS, "raw")

_KEYS = {"wire", "dtype", "shape", "codec", "data"}
_DTYPE_KINDS = "buif"
#: Blosc's own limit for one buffer.
_BLOSC_MAX_BYTES = 2**31 - 32


class WireError(ValueError):
    """A packed array is malformed; the message says what was received."""


def is_packed(value: object) -> bool:
    """Return True for a packed array, False for an ndarray or an embedding.

    Only the marker ``wire`` is checked.
    """
    return isinstance(value, Mapping) and "wire" in value


def pack_array(array: np.ndarray, codec: str) -> dict[str, Any]:
    """Pack an array of any shape and byte order whose dtype is bool, integer or real float.

    Raises :class:`WireError` for another dtype or an unknown codec.
    """
    if array.dtype.kind not in _DTYPE_KINDS:
        raise WireError(f"dtype {array.dtype} cannot be packed, expected bool, integer or float")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if codec.startswith("blosc") and array.nbytes > _BLOSC_MAX_BYTES:
        codec = MASK_CODEC
    if array.size == 0:
        codec = "raw"
    return {
        "wire": WIRE_VERSION,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "codec": codec,
        "data": _encode(array, codec),
    }


def _encode(array: np.ndarray, codec: str) -> bytes:
    if codec == "raw":
        return array.tobytes()
    if codec not in _CODECS:
        raise WireError(f"codec {codec!r} is unknown, expected one of {', '.join(CODECS)}")
    return bytes(_CODECS[codec].encode(array))


def packed_nbytes(packed: Mapping[str, Any]) -> int:
    """Return the number of bytes of a packed array on the wire, without its small header."""
    return len(packed["data"])


def check_packed(
    packed: Mapping[str, Any], max_bytes: int
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of a packed array, without unpacking it.

    Raises :class:`WireError` unless the array is well formed, its declared shape agrees with the
    size that the codec declares, and it has at most ``max_bytes`` unpacked.
    """
    dtype, shape, codec, data = _checked_fields(packed)
    expected_bytes = math.prod(shape) * dtype.itemsize
    # An axis of length 0 means no memory, but numpy still limits the other lengths.
    extent_bytes = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    if extent_bytes > max_bytes:
        raise WireError(
            f"packed array of shape {shape} {dtype} has {extent_bytes} bytes, limit {max_bytes}"
        )
    declared_bytes = _declared_bytes(data, codec)
    if declared_bytes != expected_bytes:
        raise WireError(
            f"packed data hold {declared_bytes} bytes, shape {shape} {dtype} needs {expected_bytes}"
        )
    return dtype, shape


def unpack_array(packed: Mapping[str, Any], max_bytes: int) -> np.ndarray:
    """Unpack to a writable little-endian array, never allocating more than ``max_bytes``.

    The input is untrusted and checked first, see :func:`check_packed`. Raises :class:`WireError`.
    """
    dtype, shape = check_packed(packed, max_bytes)
    codec, data = packed["codec"], packed["data"]
    if codec == "raw":
        return np.frombuffer(data, dtype=dtype).reshape(shape).copy()
    decoded = np.empty(shape, dtype=dtype)
    try:
        _CODECS[codec].decode(data, out=decoded)
    except (RuntimeError, ValueError) as error:
        raise WireError(f"packed data are damaged ({codec}): {error}") from error
    return decoded


def _checked_fields(
    packed: Mapping[str, Any],
) -> tuple[np.dtype[Any], tuple[int, ...], str, bytes]:
    if not isinstance(packed, Mapping) or set(packed) != _KEYS:
        received = (
            sorted(map(str, packed)) if isinstance(packed, Mapping) else type(packed).__name__
        )
        raise WireError(f"packed array needs the keys {sorted(_KEYS)}, got {received}")
    if packed["wire"] != WIRE_VERSION:
        raise WireError(f"wire version {packed['wire']!r} is unknown, expected {WIRE_VERSION}")
    codec, data, shape = packed["codec"], packed["data"], packed["shape"]
    if codec not in CODECS:
        raise WireError(f"codec {codec!r} is unknown, expected one of {', '.join(CODECS)}")
    if not isinstance(data, bytes):
        raise WireError(f"packed data must be bytes, got {type(data).__name__}")
    if not isinstance(shape, list | tuple) or not all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape
    ):
        raise WireError(f"shape must be a list of lengths, got {shape!r:.80}")
    if len(shape) > 8:
        raise WireError(f"shape has {len(shape)} axes, expected at most 8")
    return _checked_dtype(packed["dtype"]), tuple(shape), codec, data


def _checked_dtype(text: object) -> np.dtype[Any]:
    if isinstance(text, str) and len(text) <= 4:
        try:
            dtype = np.dtype(text)
        except TypeError:
            pass
        else:
            if dtype.kind in _DTYPE_KINDS and dtype.str == text and not text.startswith(">"):
                return dtype
    raise WireError(f"dtype {text!r:.40} is not accepted, expected e.g. '<u2', '|u1' or '<f4'")


def _declared_bytes(data: bytes, codec: str) -> int:
    if codec == "raw":
        return len(data)
    if codec == MASK_CODEC:
        return _zstd_content_bytes(data)
    if len(data) < 16:
        raise WireError(f"packed data of {len(data)} bytes are too short for {codec}")
    # Blosc 1 header: version, versionlz, flags, typesize, then nbytes, blocksize, cbytes.
    declared_bytes, _, compressed_bytes = struct.unpack_from("<III", data, 4)
    if compressed_bytes != len(data):
        raise WireError(f"packed data are truncated: {len(data)} of {compressed_bytes} bytes")
    return int(declared_bytes)


def _zstd_content_bytes(data: bytes) -> int:
    """Return the content size in bytes of a Zstandard frame (RFC 8878, section 3.1.1.1)."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise WireError("packed data are not a Zstandard frame")
    descriptor = data[4]
    size_flag, single_segment = descriptor >> 6, bool(descriptor & 0x20)
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single_segment else 0, 2, 4, 8)[size_flag]
    if width == 0 or len(data) < start + width:
        raise WireError("packed data do not declare their size")
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)


#: Fewer bytes than this may be heartbeats only, which a dead relay's kernel still acknowledges.
MOVED_MIN_BYTES = 4096
