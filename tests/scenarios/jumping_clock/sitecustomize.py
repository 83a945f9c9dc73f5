"""The wall clock of every Python process that finds this on its path is that of a file.

The file named by JUMPING_CLOCK holds seconds to add to ``time.time`` and ``time.time_ns``, by
which the ages of measurements are told; what measures durations (``monotonic``, ``perf_counter``)
does not jump, as with a clock that is set. ``datetime`` stays: pandas crashes with another class
in its place, and libfaketime, which would do it for all, makes ``time.sleep`` fail.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_FILE = Path(os.environ["JUMPING_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _offset_s() -> int:
    try:
        return int(_FILE.read_text() or 0)
    except (OSError, ValueError):
        return 0


time.time = lambda: _time() + _offset_s()
time.time_ns = lambda: _time_ns() + _offset_s() * 10**9
