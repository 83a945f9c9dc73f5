"""Pixels in memory that will be needed again, bounded for the whole process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

#: Bound of :data:`PIXELS`. A read that would need more than this at once is not kept.
LIMIT_BYTES = 1 << 30


class _Entry(NamedTuple):
    value: Any
    nbytes: int


class PixelCache:
    """Values by owner and key; beyond ``limit_bytes`` the least recently used are dropped.

    All methods may be called from any thread. Values are shared: nobody may write into them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[tuple[object, object], _Entry] = OrderedDict()
        self._total_bytes = 0
        self._lock = threading.Lock()

    @property
    def total_bytes(self) -> int:
        """Bytes of all values."""
        return self._total_bytes

    def get(self, owner: object, key: object) -> Any:
        """Return a value, None if it is not there."""
        with self._lock:
            entry = self._entries.get((owner, key))
            if entry is None:
                return None
            self._entries.move_to_end((owner, key))
            return entry.value

    def holds(self, owner: object, key: object) -> bool:
        """Return whether a value is there; this does not count as a use of it."""
        with self._lock:
            return (owner, key) in self._entries

    def put(self, owner: object, key: object, value: Any, nbytes: int) -> None:
        """Keep a value of ``nbytes`` unless it alone exceeds the limit."""
        if nbytes > self.limit_bytes:
            return
        with self._lock:
            self._remove((owner, key))
            while self._total_bytes + nbytes > self.limit_bytes:
                self._remove(next(iter(self._entries)))
            self._entries[owner, key] = _Entry(value, nbytes)
            self._total_bytes += nbytes

    def drop(self, owner: object) -> None:
        """Drop every value of an owner."""
        with self._lock:
            for key in [key for key in self._entries if key[0] is owner]:
                self._remove(key)

    def _remove(self, key: tuple[object, object]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._total_bytes -= entry.nbytes


#: The cache of this process: parts of chunks, and planes that are hashed before they are sent.
PIXELS = PixelCache(LIMIT_BYTES)
