"""Read parts of a chunked array so that each chunk is fetched and decompressed once."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pixel_cache import PIXELS, PixelCache
from .base import Index

if TYPE_CHECKING:
    import zarr

#: Chunks whose box is remembered before those that the cache has dropped are forgotten.
_MOST_CHUNKS = 1 << 16

_Chunk = tuple[int, ...]
_Box = tuple[range, ...]


class ChunkedPixels:
    """The pixels of a zarr array, read in parts.

    A chunk of which a read needs only a part is kept in ``cache`` for the next read: the planes of
    a chunk that is several planes deep, or the tiles that share a chunk. ``close`` drops them. A
    read whose chunks exceed the cache, or that needs whole chunks only, keeps nothing.

    ``check_memory`` is called with the bytes that a read is going to allocate.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        check_memory: Callable[[int], None],
        cache: PixelCache = PIXELS,
    ) -> None:
        self._array = array
        self._unit = _decoded_unit(array)
        self._unit_bytes = math.prod(self._unit) * array.dtype.itemsize
        self._check_memory = check_memory
        self._cache = cache
        #: The box with which a chunk was kept; the cache may have dropped it since.
        self._box_of: dict[_Chunk, _Box] = {}
        # Concurrent readers of the planes of one chunk would each decompress it.
        self._lock = threading.Lock()

    def read(self, index: Index) -> np.ndarray:
        """Return the pixels at ``index``, one integer or slice per dimension, as a new array."""
        wanted = tuple(
            range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            for part, size in zip(index, self._array.shape, strict=True)
        )
        kept = [len(w) for w, part in zip(wanted, index, strict=True) if isinstance(part, slice)]
        return self._read(wanted).reshape(kept)

    def close(self) -> None:
        """Drop the chunks that were kept."""
        self._cache.drop(self)

    def _read(self, wanted: _Box) -> np.ndarray:
        chunks = tuple(
            range(part.start // edge, -(-part.stop // edge))
            for part, edge in zip(wanted, self._unit, strict=True)
        )
        # A chunk at the border is decompressed with the part that lies outside of the array.
        touched_bytes = math.prod(map(len, chunks)) * self._unit_bytes
        self._check_memory(touched_bytes)
        if self._pixels(chunks) == wanted or touched_bytes > self._cache.limit_bytes:
            return self._read_array(wanted)
        pixels = np.empty([len(part) for part in wanted], self._array.dtype)
        with self._lock:
            held: dict[_Box, np.ndarray] = {}
            missing = []
            for chunk in itertools.product(*chunks):
                box = self._box_of.get(chunk)
                if box is not None and box not in held:
                    decoded = self._cache.get(self, box)
                    if decoded is None:
                        box = None
                    else:
                        held[box] = decoded
                if box is None:
                    missing.append(chunk)
            for box, decoded in held.items():
                _copy(decoded, self._pixels(box), pixels, wanted)
            for box in _boxes(missing):
                decoded = self._read_array(self._pixels(box))
                _copy(decoded, self._pixels(box), pixels, wanted)
                self._keep(decoded, box, wanted)
        return pixels

    def _keep(self, decoded: np.ndarray, box: _Box, wanted: _Box) -> None:
        """Keep the chunks of a decoded box that ``wanted`` covers in part; all of them as one."""
        region = self._pixels(box)
        partial = []
        for chunk in itertools.product(*box):
            own = self._pixels(_box_of_one(chunk))
            if any(o.start < w.start or o.stop > w.stop for o, w in zip(own, wanted, strict=True)):
                partial.append(chunk)
        if len(partial) == math.prod(map(len, box)):
            kept = {box: decoded}
        else:
            alone = map(_box_of_one, partial)
            kept = {each: decoded[_within(self._pixels(each), region)].copy() for each in alone}
        for each, part in kept.items():
            self._box_of.update(dict.fromkeys(itertools.product(*each), each))
            self._cache.put(self, each, part, part.nbytes)
        if len(self._box_of) > _MOST_CHUNKS:
            self._box_of = {
                chunk: own for chunk, own in self._box_of.items() if self._cache.holds(self, own)
            }

    def _pixels(self, chunks: _Box) -> _Box:
        """Return the positions that the chunks of a box cover along each dimension."""
        return tuple(
            range(part.start * edge, min(part.stop * edge, size))
            for part, edge, size in zip(chunks, self._unit, self._array.shape, strict=True)
        )

    def _read_array(self, pixels: _Box) -> np.ndarray:
        return np.asarray(self._array[tuple(slice(part.start, part.stop) for part in pixels)])


def _box_of_one(chunk: _Chunk) -> _Box:
    return tuple(range(at, at + 1) for at in chunk)


def _copy(source: np.ndarray, held: _Box, target: np.ndarray, wanted: _Box) -> None:
    """Copy into ``target``, at ``wanted``, the pixels that ``source``, at ``held``, has."""
    both = tuple(
        range(max(h.start, w.start), min(h.stop, w.stop)) for h, w in zip(held, wanted, strict=True)
    )
    target[_within(both, wanted)] = source[_within(both, held)]


def _within(part: _Box, whole: _Box) -> tuple[slice, ...]:
    """Return the slices that cut ``part`` out of an array that holds ``whole``."""
    return tuple(
        slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True)
    )


def _boxes(chunks: Collection[_Chunk]) -> Iterator[_Box]:
    """Yield boxes that together hold exactly ``chunks``; a box is read at once."""
    if not chunks:
        return
    bounds = tuple(
        range(min(along), max(along) + 1) for along in map(set, zip(*chunks, strict=True))
    )
    if math.prod(map(len, bounds)) == len(chunks):
        yield bounds
        return
    axis = max(range(len(bounds)), key=lambda each: len(bounds[each]))
    middle = bounds[axis].start + len(bounds[axis]) // 2
    yield from _boxes([chunk for chunk in chunks if chunk[axis] < middle])
    yield from _boxes([chunk for chunk in chunks if chunk[axis] >= middle])


def _decoded_unit(array: zarr.Array[Any]) -> Sequence[int]:
    """Return the shape of the smallest part that zarr decodes alone.

    It is the chunk inside a shard, or the shard where other codecs surround the sharding.
    """
    shards = array.shards
    if shards is None:
        return array.chunks
    codecs = getattr(array.metadata, "codecs", ())
    return array.chunks if len(codecs) == 1 else shards
