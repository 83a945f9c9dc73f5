"""The kept states: their bounds, their owners, their keys and their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samservice.contract.errors import StateNotKept
from samservice.contract.image_statistics import ImageStatistics
from samservice.server.state_cache import StateCache, StateKey, settings_sha256, state_bytes

KIB = 1 << 10


def key(name: str, caller: str = "ada") -> StateKey:
    return StateKey(caller, name, (4, 4), "YX", "settings")


def state(kib: int) -> np.ndarray:
    return np.zeros(kib * KIB, np.uint8)


def kept(cache: StateCache, keys: Mapping[str, StateKey]) -> str:
    """Return the names of the keys whose states are there."""
    found = ""
    for name, each in keys.items():
        try:
            cache.check(each)
        except StateNotKept:
            continue
        found += name
    return found


#: (what is done, what is left): a letter and a size in KiB keep a state, a letter alone uses it.
#: Small letters are of one caller, capital ones of another. The bounds are 16 and 12 KiB.
HISTORIES: dict[str, tuple[str, str]] = {
    "one caller has three quarters": ("a4 b4 c4 d4", "bcd"),
    "a used state is not the oldest": ("a4 b4 c4 a d4", "acd"),
    "a state of three quarters": ("a4 b12", "b"),
    "a larger one is refused and drops none": ("a4 b13", "a"),
    "two callers share the whole": ("a4 b4 C4 D4", "abCD"),
    "the oldest of all goes": ("a4 B4 c4 D4 e4", "BDce"),
    "the oldest may be another's": ("A8 b4 c4 d4", "bcd"),
    "its own ones go first at three quarters": ("A4 b4 c4 d4 e4", "Acde"),
    "kept again with other bytes": ("a4 a8 b4", "ab"),
    "kept again is used": ("a4 b4 c4 a4 d4", "acd"),
}


@pytest.mark.parametrize(("history", "left"), HISTORIES.values(), ids=HISTORIES)
def test_which_states_are_left(history: str, left: str) -> None:
    cache = StateCache(16 * KIB)
    keys = {
        each[0]: key(each[0], "ada" if each[0].islower() else "bob") for each in history.split()
    }
    sizes: dict[str, int] = {}
    for each in history.split():
        name, kib = each[0], each[1:]
        if kib:
            is_kept = cache.keep(keys[name], state(int(kib)))
            assert is_kept == (int(kib) <= 12)
            if is_kept:
                sizes[name] = int(kib)
        else:
            cache.get(keys[name])
    assert sorted(kept(cache, keys)) == sorted(left)
    assert cache.total_bytes == sum(sizes[name] for name in left) * KIB


FIELDS: dict[str, dict[str, Any]] = {
    "caller": {"caller": "bob"},
    "image": {"image_sha256": "other"},
    "shape": {"shape": (2, 8)},
    "axes": {"axes": "ZY"},
    "settings": {"settings_sha256": "other"},
}


@pytest.mark.parametrize("changes", FIELDS.values(), ids=FIELDS)
def test_a_state_is_found_by_its_whole_key_alone(changes: dict[str, Any]) -> None:
    cache = StateCache(16 * KIB)
    cache.keep(key("a"), "state")
    assert cache.get(key("a")) == "state"
    with pytest.raises(StateNotKept, match="expected its pixels"):
        cache.get(replace(key("a"), **changes))


def test_no_bytes_keep_nothing() -> None:
    assert not StateCache(0).keep(key("a"), state(1))


DESCRIPTION = {
    "parameters": {
        "scale": {"type": "number", "default": 1.0},
        "count": {"type": "integer", "default": 3},
        "range": {"type": "array", "items": {"type": "number"}, "default": [1, 2]},
        "name": {"type": "string", "default": "robust"},
        "tall": {"type": "boolean", "default": True},
        "level": {"type": "number", "default": 0.5},
    },
    "inference_parameters": ["scale", "count", "range", "name", "tall"],
}
SAME: dict[str, dict[str, Any]] = {
    "defaults": {"scale": 1.0, "count": 3, "range": [1, 2], "name": "robust", "tall": True},
    "an integer for a number": {"scale": 1},
    "numbers in a list": {"range": [1.0, 2.0]},
    "numbers of numpy": {"scale": np.float32(1), "count": np.int64(3)},
    "a parameter of finish": {"level": 0.7},
}
OTHER: dict[str, dict[str, Any]] = {
    "number": {"scale": 1.5},
    "the next number": {"scale": float(np.nextafter(1.0, 2.0))},
    "integer": {"count": 4},
    "list": {"range": [2, 1]},
    "string": {"name": "minmax"},
    "boolean": {"tall": False},
}
STATISTICS = ImageStatistics((64, 64), (0, 8), robust_range=((1.0, 5.0),))


@pytest.mark.parametrize("parameters", SAME.values(), ids=SAME)
def test_equal_settings(parameters: dict[str, Any]) -> None:
    default = settings_sha256(DESCRIPTION, {}, None)
    assert settings_sha256(DESCRIPTION, parameters, None) == default


@pytest.mark.parametrize("parameters", OTHER.values(), ids=OTHER)
def test_other_settings(parameters: dict[str, Any]) -> None:
    default = settings_sha256(DESCRIPTION, {}, None)
    assert settings_sha256(DESCRIPTION, parameters, None) != default


def test_the_statistics_of_a_tile_are_settings() -> None:
    given = [
        None,
        STATISTICS,
        replace(STATISTICS, origin_px=(8, 0)),
        replace(STATISTICS, robust_range=((1.0, 6.0),)),
        replace(STATISTICS, shape_px=(64, 65)),
    ]
    assert len({settings_sha256(DESCRIPTION, {}, each) for each in given}) == len(given)
    again = replace(STATISTICS)
    assert settings_sha256(DESCRIPTION, {}, again) == settings_sha256(DESCRIPTION, {}, STATISTICS)


@dataclass(frozen=True, slots=True)
class Slotted:
    content: Any
    parts: list[Any] = field(default_factory=list)


ARRAY = np.zeros(100_000, np.uint8)
VIEW = np.zeros((10, 100_000), np.uint8)[3]
HELD: dict[str, tuple[Any, int]] = {
    "array": (ARRAY, 100_000),
    "a view keeps its whole array": (VIEW, 1_000_000),
    "two views keep it once": ([VIEW, VIEW[:5]], 1_000_000),
    "dict of arrays": ({"a": ARRAY, "b": {"c": ARRAY.copy()}}, 200_000),
    "the same array twice": ((ARRAY, [ARRAY]), 100_000),
    "slotted dataclass": (Slotted(ARRAY, [ARRAY.copy()]), 200_000),
    "object with attributes": (SimpleNamespace(x=ARRAY), 100_000),
    "array of objects": (np.array([ARRAY, None], object), 100_000),
    "bytes": ({"data": bytes(100_000)}, 100_000),
    "array on bytes": (np.frombuffer(bytes(100_000), np.uint8), 100_000),
    "array on a memoryview": (np.asarray(memoryview(bytearray(100_000))), 100_000),
}


@pytest.mark.parametrize(("held", "nbytes"), HELD.values(), ids=HELD)
def test_the_bytes_of_a_state(held: Any, nbytes: int) -> None:
    assert nbytes <= state_bytes(held) <= nbytes + 2_000


def test_numbers_in_lists_count() -> None:
    # A list has 8 bytes for each, and an int of CPython 28.
    assert 3_500_000 <= state_bytes([{"counts": list(range(1000, 101_000))}]) <= 3_900_000


def test_a_state_that_refers_to_itself_is_counted() -> None:
    held: list[Any] = [ARRAY]
    held.append(held)
    assert 100_000 <= state_bytes(held) <= 102_000
