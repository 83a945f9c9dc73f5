"""Write and read JSON files without NaN and infinity, atomically.

Standard library only, since the Snakefile imports it at every parse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .atomic import write_atomic


def write_json(path: Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write ``value`` atomically; ``default`` is as in :func:`json.dumps`.

    Raises ValueError for NaN or infinity, TypeError for any other value that JSON lacks.
    """
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, default=default) + "\n")


def read_json(path: Path) -> Any:
    """Return the value in the JSON file, None if it is absent, damaged, or has NaN or infinity."""
    try:
        return parse_json(path.read_bytes())
    except OSError:
        return None


def parse_json(content: bytes | str) -> Any:
    """Return the JSON value in ``content``, None if it is damaged or has NaN or infinity."""
    try:
        return json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is not a finite number")
    return number


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON that is always the same: ASCII, sorted keys, no spaces.

    Raises ValueError for NaN or infinity, TypeError for any other value that JSON lacks.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")
