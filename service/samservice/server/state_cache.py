"""What the device gave for recent images, so that other parameters of ``finish`` need it no more.

States are not compressed: it would save a third of the bytes of micro-sam's, and cost a tenth of
``finish`` with each use. A sweep needs one state at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..contract.errors import StateNotKept
from ..contract.image_statistics import ImageStatistics
from ..contract.parameters import Schema

#: What a state may refer to without holding it: it belongs to the program.
_OF_THE_PROGRAM = (type, type(sys), type(len), type(lambda: None))


@dataclass(frozen=True)
class StateKey:
    """Names a state: whose, of which image, and inferred with which settings.

    Attributes:
        caller: The verified caller. Digests are no secret, and images are: a caller never gets the
            state of another one.
        image_sha256: See :func:`samservice.contract.image_reference.pixels_sha256`.
        shape: That of the image.
        axes: Those of the image.
        settings_sha256: See :func:`settings_sha256`.
    """

    caller: str
    image_sha256: str
    shape: tuple[int, ...]
    axes: str
    settings_sha256: str


def settings_sha256(
    description: Mapping[str, Any],
    parameters: Mapping[str, Any],
    statistics: ImageStatistics | None,
) -> str:
    """Return the digest of what a state depends on besides its image.

    They are the values of the described ``inference_parameters``, defaults included, and the
    statistics of a tile.
    """
    schemas = description.get("parameters", {})
    values = {}
    for name in description["inference_parameters"]:
        schema = schemas.get(name, {})
        values[name] = _canonical(parameters.get(name, schema.get("default")), schema)
    text = json.dumps(values, sort_keys=True, default=repr)
    # repr() of a float is exact, and that of bytes is all of them.
    sent = None if statistics is None else statistics.to_wire()
    return hashlib.sha256(f"{text}\n{sent!r}".encode()).hexdigest()


def _canonical(value: Any, schema: Schema) -> Any:
    """Return a checked value so that equal ones have the same text, as 1 and 1.0 of a number."""
    if isinstance(value, list | tuple):
        return [_canonical(each, schema.get("items", {})) for each in value]
    if value is not None and schema.get("type") in ("number", "integer"):
        return float(value) if schema["type"] == "number" else int(value)
    return value


class StateCache:
    """States up to ``max_bytes`` together; the least recently used ones go first.

    One caller holds three quarters of the bytes at most. All methods may be called from any thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_caller_bytes = max_bytes - max_bytes // 4
        self._states: OrderedDict[StateKey, tuple[Any, int]] = OrderedDict()
        self._total_bytes = 0
        self._lock = threading.Lock()

    @property
    def total_bytes(self) -> int:
        """Bytes of all states."""
        return self._total_bytes

    def keep(self, key: StateKey, state: Any) -> bool:
        """Keep a state; return False when it is too large."""
        nbytes = state_bytes(state)
        if nbytes > self._max_caller_bytes:
            return False
        with self._lock:
            self._remove(key)
            own = [each for each in self._states if each.caller == key.caller]
            own_bytes = sum(self._states[each][1] for each in own)
            while own_bytes + nbytes > self._max_caller_bytes:
                own_bytes -= self._remove(own.pop(0))
            while self._total_bytes + nbytes > self._max_bytes:
                self._remove(next(iter(self._states)))
            self._states[key] = state, nbytes
            self._total_bytes += nbytes
        return True

    def check(self, key: StateKey) -> None:
        """Raise StateNotKept unless a state is there; this does not count as a use of it."""
        if key not in self._states:
            raise StateNotKept(
                f"no state of the image {key.image_sha256[:12]} with these settings is kept for "
                "this caller, expected its pixels"
            )

    def get(self, key: StateKey) -> Any:
        """Return a state; raise StateNotKept when it is not there."""
        with self._lock:
            self.check(key)
            self._states.move_to_end(key)
            return self._states[key][0]

    def _remove(self, key: StateKey) -> int:
        """Remove a state if it is there, and return its bytes."""
        _, nbytes = self._states.pop(key, (None, 0))
        self._total_bytes -= nbytes
        return nbytes


def state_bytes(state: Any) -> int:
    """Return the bytes that a state holds: arrays, and the objects that lead to them.

    A view counts as the whole array whose memory it keeps. What is referred to twice counts once.
    """
    total_bytes, seen, waiting = 0, set[int](), [state]
    while waiting:
        value = waiting.pop()
        if value is None or isinstance(value, _OF_THE_PROGRAM):
            continue
        if isinstance(value, bool | int | float | complex):
            # Of these there may be millions, in run-length encoded masks.
            total_bytes += sys.getsizeof(value)
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray) and value.dtype != object:
            if value.base is not None:
                waiting.append(value.base)
                continue
            total_bytes += value.nbytes
            continue
        total_bytes += _own_bytes(value)
        waiting.extend(_parts(value))
    return total_bytes


def _own_bytes(value: Any) -> int:
    """Return the bytes of one object; a tensor's size is not that of its Python object."""
    if isinstance(value, memoryview):
        return sys.getsizeof(value)
    storage = getattr(value, "untyped_storage", None)
    nbytes = getattr(value if storage is None else storage(), "nbytes", None)
    nbytes = nbytes() if callable(nbytes) else nbytes
    return sys.getsizeof(value, 0) + (nbytes if isinstance(nbytes, int) else 0)


def _parts(value: Any) -> list[Any]:
    """Return the objects to which a container, or an object with attributes, refers."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return [value.obj] if isinstance(value, memoryview) else []
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    found = list(getattr(value, "__dict__", {}).values())
    if dataclasses.is_dataclass(value):
        # They may have slots.
        found += [getattr(value, each.name, None) for each in dataclasses.fields(value)]
    return found
