from __future__ import annotations

from samcourier.images.pixel_cache import PixelCache


def test_the_least_recently_used_value_goes_when_the_limit_is_reached() -> None:
    cache = PixelCache(100)
    for key in range(4):
        cache.put("image", key, f"value {key}", 30)
        assert cache.get("image", 0) == "value 0"
    assert [cache.get("image", key) for key in range(4)] == ["value 0", None, "value 2", "value 3"]
    assert cache.total_bytes == 90


def test_a_value_beyond_the_limit_is_not_kept_and_displaces_nothing() -> None:
    cache = PixelCache(100)
    cache.put("image", 0, "small", 60)
    cache.put("image", 1, "large", 101)
    assert (cache.get("image", 0), cache.get("image", 1)) == ("small", None)


def test_a_value_put_again_counts_once() -> None:
    cache = PixelCache(100)
    for value in ("first", "second"):
        cache.put("image", 0, value, 60)
    assert (cache.get("image", 0), cache.total_bytes) == ("second", 60)


def test_an_owner_drops_its_own_values_alone() -> None:
    cache = PixelCache(100)
    for owner in ("one", "other"):
        cache.put(owner, 0, owner, 40)
    cache.drop("one")
    assert (cache.get("one", 0), cache.get("other", 0)) == (None, "other")
    assert cache.total_bytes == 40
