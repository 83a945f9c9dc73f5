"""The log of one image while the image is under way, and what the manifest says of it after."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from samservice.contract.identity import SERVICE_IDENTITY

from .. import __version__
from ..errors import Failure
from ..images.planes import Planes
from ..results.image_log import NOTE_REUSED, Attempt, ImageLog, ImageSeconds, OutputRecord
from ..results.timestamps import utc_now
from ..samples.sheet import ImageRow
from ..tiling.grid import Tiling
from .key import image_key

#: What of ``describe()`` shapes the labels, and goes into every log and mask.
_IDENTITY = (*SERVICE_IDENTITY, "versions", "device")


def service_identity(description: dict[str, Any]) -> dict[str, Any]:
    """Return what of a service's description goes into logs and masks."""
    return {name: description.get(name) for name in _IDENTITY}


class Draft:
    """The log of one image while it is under way."""

    def __init__(
        self,
        row: ImageRow,
        parameters: dict[str, Any],
        identity: dict[str, Any],
        form: dict[str, Any],
    ) -> None:
        self._row = row
        self.parameters = parameters
        #: How the mask is written; it does not change the labels, so it is no part of the key.
        self.form = form
        self._identity = identity
        self._planes: Planes | None = None
        self._tiling: Tiling | None = None
        self._pixels_sha256: str | None = None
        self._foreground_sha256: str | None = None
        self._start_s = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self.key: str | None = None
        self.attempts: tuple[Attempt, ...] = ()
        self.mask: Path | None = None
        self.object_count: int | None = None
        self.note: str | None = None
        self.tiles_kept = 0
        self.outputs: dict[str, OutputRecord] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start_s

    def saw(
        self,
        planes: Planes,
        pixels_sha256: str,
        tiling: Tiling | None = None,
        foreground_sha256: str | None = None,
    ) -> None:
        self._seconds["read"] = time.perf_counter() - self._start_s
        self._planes, self._pixels_sha256, self._tiling = planes, pixels_sha256, tiling
        self.form["pixel_size_um"] = self.form["pixel_size_um"] or planes.pixel_size_um
        if "Z" in planes.mask_axes:
            self.form["z_spacing_um"] = planes.z_spacing_um
        self._foreground_sha256 = foreground_sha256
        self.key = image_key(
            pixels_sha256, self.parameters, self._identity, self._tiles, foreground_sha256
        )

    @property
    def spacing_um(self) -> tuple[float | None, ...]:
        """The size along each axis of the mask, None where it is not known, as for time."""
        assert self._planes is not None
        pixel_um = self.form["pixel_size_um"]
        sizes = {"Z": self.form.get("z_spacing_um"), "Y": pixel_um, "X": pixel_um}
        return tuple(sizes.get(axis) for axis in self._planes.mask_axes)

    @property
    def _tiles(self) -> dict[str, int] | None:
        return self._tiling.identity if self._tiling else None

    def provenance(self, object_count: int) -> dict[str, Any]:
        """Return what the mask's attributes say of how it came about."""
        return {
            "key": self.key,
            "form": self.form,
            "image": self._row.image,
            "pixels_sha256": self._pixels_sha256,
            "foreground_sha256": self._foreground_sha256,
            "object_count": object_count,
            "parameters": self.parameters,
            "tiles": self._tiles,
            "service": self._identity,
            "samcourier": __version__,
        }

    def done(self) -> ImageLog:
        return self._log("done")

    def reused(self, mask: Path, object_count: Any) -> ImageLog:
        self.mask = mask
        self.object_count = object_count if isinstance(object_count, int) else None
        self.note = f"{NOTE_REUSED}: a whole mask with this key was there"
        return self._log("done")

    def failed(self, error: Exception) -> ImageLog:
        return self._log("failed", Failure.of(error))

    def _log(self, status: Any, failure: Failure | None = None) -> ImageLog:
        planes = self._planes
        return ImageLog(
            image=self._row.image,
            path=str(self._row.path),
            status=status,
            finished_at=utc_now(),
            seconds=ImageSeconds(total=time.perf_counter() - self._start_s, **self._seconds),
            key=self.key,
            pixels_sha256=self._pixels_sha256,
            failure=failure,
            note=self.note,
            object_count=self.object_count,
            shape=planes.shape if planes else None,
            dtype=str(planes.dtype) if planes else None,
            axes=planes.axes if planes else None,
            planes=len(planes) if planes else 1,
            tiles=len(self._tiling) if self._tiling else 1,
            tiles_kept=self.tiles_kept,
            mask=str(self.mask) if self.mask else None,
            outputs=self.outputs,
            attempts=tuple(sorted(self.attempts, key=lambda each: each.started_at)),
            service=self._identity,
            parameters=self.parameters,
            versions=_versions(),
        )


@cache
def _versions() -> dict[str, str]:
    packages = {name.replace("-", "_"): version(name) for name in ("hypha-rpc", "aiortc", "zarr")}
    return {"samcourier": __version__, "python": platform.python_version(), **packages}
