"""The wall clock of every Python process that finds this on its path is that of a file.

The file named by JUMPING_CLOCK holds seconds to add. ``time.time``, ``time.time_ns`` and
``datetime.now`` jump; what measures durations (``monotonic``, ``perf_counter``) does not, as with
a clock that is set. libfaketime would do it for any program, but makes ``time.sleep`` fail.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

_FILE = Path(os.environ["JUMPING_CLOCK"])
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


def _offset_s() -> int:
    try:
        return int(_FILE.read_text() or 0)
    except (OSError, ValueError):
        return 0


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Datetime:
        jumped = _datetime.now(tz) + datetime.timedelta(seconds=_offset_s())
        return cls.combine(jumped.date(), jumped.timetz(), jumped.tzinfo)


time.time = lambda: _time() + _offset_s()
time.time_ns = lambda: _time_ns() + _offset_s() * 10**9
datetime.datetime = _Datetime  # type: ignore[misc]
