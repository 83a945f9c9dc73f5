"""The first stage: open the image of a sheet's row and compute the key of its mask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samservice.contract.parameters import Z_ASPECT, parameter_problems

from .. import __version__
from ..errors import ImageChanged
from ..images.geometry import Geometry, sizes_of_sheet
from ..images.location import ImageLocation
from ..images.planes import Plane, Planes, file_stamp
from ..masks.foreground import Foreground, read_foreground
from ..masks.integrity import OmeZarrVersion
from ..results.service_description import ServiceDescription
from ..samples.sheet import ImageRow
from ..tiling.grid import ServiceLimits, Tiling, plan_tiles
from .key import image_key, service_identity
from .requirements import typed_parameters
from .settings import BatchSettings


@dataclass(frozen=True)
class Request:
    """The request of a run for one image.

    ``parameters`` are the run's, overridden by the row's, in the types that the service describes.
    ``service`` is the service's
    :func:`samcourier.segmentation.key.service_identity`.
    """

    row: ImageRow
    parameters: dict[str, Any]
    service: dict[str, Any]

    @classmethod
    def of(cls, row: ImageRow, settings: BatchSettings, description: ServiceDescription) -> Request:
        """Return the request of one row for the service with this description."""
        given = {**settings.run.parameters, **row.parameters}
        parameters = typed_parameters(given, description.parameters)
        return cls(row, parameters, service_identity(description))


@dataclass(frozen=True)
class FileVersion:
    """The version of an image's files at one moment, by their :func:`file_stamp`.

    Attributes:
        path: The file of the sheet.
        further: The other files of an image that lies in several.
        stamps: The stamp of each file.
    """

    path: ImageLocation
    further: tuple[Path, ...]
    stamps: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def now(cls, path: ImageLocation, further: tuple[Path, ...] = ()) -> FileVersion:
        """Return the present version of the files."""
        return cls(path, further, tuple(file_stamp(each) for each in (path, *further)))

    @property
    def has_changed(self) -> bool:
        """Whether a file was written to, replaced or deleted since then."""
        return self != FileVersion.now(self.path, self.further)


def image_changed(path: ImageLocation) -> ImageChanged:
    """Return the error for an image whose file changed while the image was processed."""
    return ImageChanged(
        f"{path}: changed while it was being processed,"
        " expected a file that nobody writes to; run again"
    )


@dataclass(frozen=True)
class Prepared:
    """An opened image.

    ``parameters`` are the request's, with those of :func:`parameters_of_geometry`.
    ``planes`` reads its pixels while the file is open. ``plane`` is the first plane, None if it is
    sent as tiles. ``tiling`` is None for planes that are sent whole, ``foreground`` if the row has
    none. ``geometry`` is the mask's: the file's, overridden by the sheet's. ``form`` describes how
    the mask is written; it does not change the labels, so ``key`` leaves it out. ``file`` is the
    version of the file before it was opened.
    """

    request: Request
    parameters: dict[str, Any]
    file: FileVersion
    planes: Planes
    plane: Plane | None
    tiling: Tiling | None
    foreground: Foreground | None
    pixels_sha256: str
    key: str
    geometry: Geometry
    form: dict[str, Any]

    def provenance(self, object_count: int) -> dict[str, Any]:
        """Return the provenance that a mask with ``object_count`` objects has in its attributes."""
        return {
            "key": self.key,
            "form": self.form,
            "image": self.request.row.image,
            "pixels_sha256": self.pixels_sha256,
            "foreground_sha256": self.foreground.sha256 if self.foreground else None,
            "object_count": object_count,
            "parameters": self.parameters,
            "tiles": self.tiling.identity if self.tiling else None,
            "service": self.request.service,
            "samcourier": __version__,
        }


async def prepare(
    request: Request,
    file: FileVersion,
    planes: Planes,
    settings: BatchSettings,
    description: ServiceDescription,
) -> Prepared:
    """Read what decides the mask of an opened image: pixels, tiling, foreground and geometry.

    ``description`` is the service's own description with its limits. A stack, or a plane that is
    sent as tiles, is read in parts and not kept in memory. Raises ImageUnfit for pixels or a
    foreground that cannot be segmented, or if the service takes neither the plane nor its tiles.
    """
    row = request.row
    tiling = plan_tiles(
        row.path,
        planes.plane_axes,
        planes.plane_shape,
        planes.dtype.itemsize,
        settings.run.tiles,
        ServiceLimits.of(description),
    )
    plane = None if tiling else await asyncio.to_thread(planes.read)
    if plane is None or planes.stack_axes:
        digest = await asyncio.to_thread(planes.sha256, in_bands=plane is None)
    else:
        digest = plane.pixels_sha256
    foreground = None
    if row.foreground is not None:
        foreground = await asyncio.to_thread(read_foreground, row.foreground, planes)
    geometry = planes.geometry.with_sizes_um(sizes_of_sheet(row.pixel_size_um))
    parameters = request.parameters | parameters_of_geometry(
        geometry, planes.plane_axes, request.parameters, description.parameters
    )
    key = image_key(
        digest,
        parameters,
        request.service,
        tiling.identity if tiling else None,
        foreground.sha256 if foreground else None,
    )
    form = _form(settings.run.ome_zarr, geometry)
    return Prepared(
        request, parameters, file, planes, plane, tiling, foreground, digest, key, geometry, form
    )


def parameters_of_geometry(
    geometry: Geometry,
    plane_axes: str,
    given: Mapping[str, Any],
    described: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the parameters that the image itself states: of a volume, how far its planes are.

    They are those that the service describes and that are not among ``given``. Empty where a size
    is unknown, where y and x differ, and where the ratio is that which the service takes anyway or
    does not accept.
    """
    accepted = described or {}
    if Z_ASPECT not in accepted or Z_ASPECT in given or "Z" not in plane_axes:
        return {}
    z_um, y_um, x_um = geometry.sizes_um("ZYX")
    if z_um is None or y_um is None or y_um != x_um:
        return {}
    # Six digits: the sizes of two files of one microscope differ in the last ones.
    z_aspect = float(f"{z_um / y_um:.6g}")
    found = {Z_ASPECT: z_aspect}
    is_default = z_aspect == accepted[Z_ASPECT].get("default")
    return {} if is_default or parameter_problems(found, accepted) else found


def _form(ome_zarr: OmeZarrVersion, geometry: Geometry) -> dict[str, Any]:
    """Return the form of a mask.

    Earlier versions recorded the size along x and z in micrometres. A geometry of which these are
    all is recorded as they did, so that their masks are not written anew.
    """
    sizes_um: dict[str, float | None] = {"pixel_size_um": geometry.size_um("X")}
    if "Z" in geometry.letters:
        sizes_um["z_spacing_um"] = geometry.size_um("Z")
    of_axis = {"Y": sizes_um["pixel_size_um"], "X": sizes_um["pixel_size_um"]}
    of_axis["Z"] = sizes_um.get("z_spacing_um")
    plain = Geometry.in_um(geometry.letters, [of_axis.get(axis) for axis in geometry.letters])
    recorded = {} if geometry == plain else {"geometry": geometry.record()}
    return {"ome_zarr": ome_zarr} | sizes_um | recorded
