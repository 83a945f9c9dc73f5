"""Each chunk is fetched once, whatever the order and the shape of the reads."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from samcourier.images.pixel_cache import PixelCache
from samcourier.images.readers import chunked
from samcourier.images.readers.base import Index
from samcourier.images.readers.chunked import ChunkedPixels

SHAPE = (6, 50, 70)
PIXELS = np.random.default_rng(5).integers(1, 4000, SHAPE).astype("u2")
EVERY = slice(None)


class CountingStore(MemoryStore):
    """Counts what is fetched, by key and byte range, without the metadata."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: Counter[str] = Counter()

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if "zarr.json" not in key and ".z" not in key and "Suffix" not in type(byte_range).__name__:
            self.fetched[f"{key} {byte_range}"] += 1
        return await super().get(key, prototype, byte_range)


def opened(
    limit_bytes: int = 1 << 20, **layout: Any
) -> tuple[ChunkedPixels, CountingStore, PixelCache]:
    """Return an array of ``PIXELS`` in this layout, without fetches so far."""
    store = CountingStore()
    zarr.create_array(store, shape=SHAPE, dtype="u2", **layout)[:] = PIXELS
    store.fetched.clear()
    cache = PixelCache(limit_bytes)
    array = zarr.open_array(store, mode="r+")
    return ChunkedPixels(array, lambda nbytes: None, cache), store, cache


def planes() -> list[Index]:
    return [(z, EVERY, EVERY) for z in range(SHAPE[0])]


def bands() -> list[Index]:
    """Return reads of 16 rows of each plane, which are no multiple of the chunks' rows."""
    return [(z, slice(y, min(y + 16, 50)), EVERY) for z in range(6) for y in range(0, 50, 16)]


def tiles() -> list[Index]:
    """Return overlapping tiles of each plane, row by row."""
    return [
        (z, slice(max(y - 3, 0), min(y + 23, 50)), slice(max(x - 3, 0), min(x + 23, 70)))
        for z in range(6)
        for y in range(0, 50, 20)
        for x in range(0, 70, 20)
    ]


@pytest.mark.parametrize("reads", [planes(), bands(), tiles()], ids=["planes", "bands", "tiles"])
@pytest.mark.parametrize(
    ("layout", "chunk_count"),
    [
        # 1 x 2 x 2, 2 x 3 x 4 and 6 x 1 x 1 chunks cover the array.
        ({"chunks": (6, 32, 64)}, 4),
        ({"chunks": (4, 20, 20)}, 2 * 3 * 4),
        ({"chunks": (1, 50, 70)}, 6),
        ({"chunks": (6, 32, 64), "zarr_format": 2}, 4),
        # Chunks inside a shard are fetched alone, or with the whole shard.
        ({"chunks": (3, 16, 16), "shards": (6, 32, 32)}, None),
        ({"chunks": (1, 16, 16), "shards": (6, 32, 32)}, None),
    ],
)
def test_a_chunk_is_fetched_once(
    layout: dict[str, Any], chunk_count: int | None, reads: list[Index]
) -> None:
    pixels, store, _ = opened(**layout)
    for index in reads:
        np.testing.assert_array_equal(pixels.read(index), PIXELS[index])
    assert set(store.fetched.values()) == {1}
    if chunk_count is not None:
        assert len(store.fetched) == chunk_count


@pytest.mark.parametrize(
    "index",
    [
        (2, 3, 4),
        (slice(1, 5), 3, slice(10, 11)),
        (slice(0, 6), slice(0, 50), slice(0, 70)),
        (slice(2, None), slice(None, 20), EVERY),
        (0, slice(10, 10), EVERY),
    ],
)
def test_the_pixels_are_those_of_the_array(index: Index) -> None:
    pixels, _, _ = opened(chunks=(4, 20, 20))
    for _ in range(2):
        np.testing.assert_array_equal(pixels.read(index), PIXELS[index])


def test_threads_that_read_the_planes_of_a_chunk_fetch_it_once() -> None:
    pixels, store, _ = opened(chunks=(6, 50, 70))
    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(lambda z: pixels.read((z, EVERY, EVERY)), range(6)))
    np.testing.assert_array_equal(np.stack(read), PIXELS)
    assert set(store.fetched.values()) == {1}


def test_a_missing_chunk_is_the_fill_value() -> None:
    store = CountingStore()
    array = zarr.create_array(store, shape=SHAPE, dtype="u2", chunks=(6, 25, 70), fill_value=7)
    array[:, :25] = PIXELS[:, :25]
    pixels = ChunkedPixels(
        zarr.open_array(store, mode="r+"), lambda nbytes: None, PixelCache(10**6)
    )
    for z in range(6):
        plane = pixels.read((z, EVERY, EVERY))
        np.testing.assert_array_equal(plane[:25], PIXELS[z, :25])
        assert (plane[25:] == 7).all()


def test_the_memory_stays_below_the_limit() -> None:
    chunk_bytes = 6 * 20 * 20 * 2
    pixels, _, cache = opened(limit_bytes=9 * chunk_bytes, chunks=(6, 20, 20))
    for index in tiles():
        np.testing.assert_array_equal(pixels.read(index), PIXELS[index])
        assert cache.total_bytes <= 9 * chunk_bytes
    pixels.close()
    assert cache.total_bytes == 0


def test_chunks_that_were_dropped_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_MOST_CHUNKS", 20)
    pixels, _, _ = opened(limit_bytes=9 * 6 * 10 * 10 * 2, chunks=(6, 10, 10))
    for index in tiles():
        np.testing.assert_array_equal(pixels.read(index), PIXELS[index])
        assert len(pixels._box_of) <= 20 + 9


def test_a_read_of_whole_chunks_or_of_more_than_the_limit_keeps_nothing() -> None:
    for layout, limit_bytes in (({"chunks": (1, 50, 70)}, 10**6), ({"chunks": (6, 50, 70)}, 1000)):
        pixels, _, cache = opened(limit_bytes, **layout)
        for index in planes():
            np.testing.assert_array_equal(pixels.read(index), PIXELS[index])
            assert cache.total_bytes == 0


def test_the_memory_that_a_read_takes_is_checked_with_whole_chunks() -> None:
    checked: list[int] = []
    array = zarr.create_array(MemoryStore(), shape=(10, 10), dtype="u2", chunks=(64, 64))
    ChunkedPixels(array, checked.append, PixelCache(10**6)).read((0, slice(0, 5)))
    assert checked == [64 * 64 * 2]
