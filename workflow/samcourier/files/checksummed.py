"""Files of values with a checksum: a SHA-256, then msgpack."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_DIGEST_BYTES = 32


def checksummed(value: Any) -> bytes:
    """Return the content of a file for ``value``, which has JSON values and bytes."""
    import msgpack

    packed: bytes = msgpack.packb(value)
    return hashlib.sha256(packed).digest() + packed


def read_checksummed(path: Path) -> Any:
    """Return the value in the file, None when it is absent or damaged."""
    import msgpack

    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return msgpack.unpackb(packed) if hashlib.sha256(packed).digest() == digest else None
