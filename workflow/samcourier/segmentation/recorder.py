"""The last stage: build the log of one image from the results and events of its stages."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Literal

from msgspec import structs

from .. import __version__
from ..failure import Failure
from ..results.image_log import NOTE_REUSED, Attempt, ImageLog, ImageSeconds
from ..results.timestamps import utc_now
from .events import Event, Stage, TilesKept, TimeSpent
from .finish import Finished
from .prepared import Prepared, Request


class Recorder:
    """Builds the log of one image; the constructor starts its clock.

    The methods take None for stages that were not reached.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._start_s = time.perf_counter()
        self._events: list[Event] = []

    def record(self, event: Event) -> None:
        """Record an event of any stage; the stages receive this method as their hook."""
        self._events.append(event)

    def record_prepared(self) -> None:
        """Record the end of the first stage: all time until now counts as reading."""
        self.record(TimeSpent("read", time.perf_counter() - self._start_s))

    def done(self, prepared: Prepared, finished: Finished) -> ImageLog:
        """Return the log of an image whose mask this run wrote."""
        return self._log("done", prepared, finished)

    def reused(self, prepared: Prepared, finished: Finished, earlier: ImageLog | None) -> ImageLog:
        """Return the log of an image whose complete mask exists in the form of this run.

        ``earlier`` is the log of an earlier run. If it describes that mask, the result is the same
        log with this run's outputs.
        """
        if earlier is not None and earlier.key == prepared.key and earlier.status == "done":
            return structs.replace(earlier, outputs=dict(finished.outputs))
        note = f"{NOTE_REUSED}: a whole mask with this key was there"
        return self._log("done", prepared, replace(finished, note=note))

    def failed(
        self,
        error: Exception,
        prepared: Prepared | None = None,
        finished: Finished | None = None,
    ) -> ImageLog:
        """Return the log of an image that ``error`` ended, with all events before it."""
        return self._log("failed", prepared, finished, Failure.of(error))

    def _log(
        self,
        status: Literal["done", "failed"],
        prepared: Prepared | None,
        finished: Finished | None,
        failure: Failure | None = None,
    ) -> ImageLog:
        request = prepared.request if prepared else self.request
        planes = prepared.planes if prepared else None
        attempts = [each for each in self._events if isinstance(each, Attempt)]
        return ImageLog(
            image=request.row.image,
            path=str(request.row.path),
            status=status,
            finished_at=utc_now(),
            seconds=ImageSeconds(total=time.perf_counter() - self._start_s, **self._seconds()),
            key=prepared.key if prepared else None,
            pixels_sha256=prepared.pixels_sha256 if prepared else None,
            failure=failure,
            note=finished.note if finished else None,
            object_count=finished.object_count if finished else None,
            shape=planes.shape if planes else None,
            dtype=str(planes.dtype) if planes else None,
            axes=planes.axes if planes else None,
            planes=len(planes) if planes else 1,
            tiles=len(prepared.tiling) if prepared and prepared.tiling else 1,
            tiles_kept=sum(each.count for each in self._events if isinstance(each, TilesKept)),
            mask=str(finished.mask) if finished else None,
            outputs=dict(finished.outputs) if finished else {},
            attempts=tuple(sorted(attempts, key=lambda each: each.started_at)),
            service=request.service,
            parameters=request.parameters,
            versions=_versions(),
        )

    def _seconds(self) -> dict[Stage, float]:
        """Return the seconds of each stage that was reached, summed over its parts."""
        seconds: dict[Stage, float] = {}
        for each in self._events:
            if isinstance(each, TimeSpent):
                seconds[each.stage] = seconds.get(each.stage, 0.0) + each.seconds
        return seconds


@cache
def _versions() -> dict[str, str]:
    packages = {name.replace("-", "_"): version(name) for name in ("hypha-rpc", "aiortc", "zarr")}
    return {"samcourier": __version__, "python": platform.python_version(), **packages}
