"""The geometry that a TIFF states, in the metadata of whoever wrote it.

Sources: the OME-XML schema 2016-06 (units), ImageJ's ``TiffDecoder`` and ``Calibration``, the LSM
file format (voxel sizes in metres), Aperio's ``MPP``, MetaMorph's STK and MetaSeries tags, and
Bio-Formats' ``MetamorphReader`` (z distances in micrometres).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree

import tifffile

from ..geometry import AxisGeometry, Geometry, exact, measured_axis, plain_number
from ..units import MICROMETER, length_unit, time_unit, um_per

#: Pixels of 10 000 dpi and of 50 dpi: a resolution in between may be that of a printer, of a screen
#: or of a scanner of paper.
_FINEST_PRINTED_UM = 2.54
_COARSEST_PRINTED_UM = 508
#: ImageJ writes the resolution in millionths, cut off. A fraction with a denominator below the
#: second number is exact.
_IMAGEJ_DENOMINATOR = 1_000_000
_SMALLEST_CUT_DENOMINATOR = 1000
_MOST_DIGITS = 7
_RESOLUTION_UNITS = {2: "inch", 3: "centimeter"}


def tiff_geometry(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, image: ElementTree.Element | None
) -> Geometry:
    """Return the geometry of a series; ``image`` is its OME element Pixels, None without OME."""
    if image is not None:
        return _ome(image)
    for is_kind, geometry_of in _KINDS.items():
        if getattr(tiff, is_kind):
            return geometry_of(tiff, series)
    return _plain(series)


def _ome(image: ElementTree.Element) -> Geometry:
    lengths = [
        measured_axis(
            axis,
            image.get(f"PhysicalSize{axis}"),
            length_unit(image.get(f"PhysicalSize{axis}Unit", "µm")),
        )
        for axis in "ZYX"
    ]
    unit = time_unit(image.get("TimeIncrementUnit", "s"))
    return Geometry((measured_axis("T", image.get("TimeIncrement"), unit), *lengths))


def _imagej(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    metadata: dict[str, Any] = tiff.imagej_metadata or {}
    # ImageJ stores the unit of y and z only if it differs from that of x.
    units = {
        axis: length_unit(str(metadata.get(f"{axis}unit", metadata.get("unit", ""))), any_case=True)
        for axis in "xyz"
    }
    x, y = (
        measured_axis(axis, _imagej_size(_resolution(series, axis)), units[axis.lower()])
        for axis in "XY"
    )
    if units["x"] in _RESOLUTION_UNITS.values() and any(map(_is_printed, (x, y))):
        # ImageJ opens a TIFF of 300 dpi as calibrated in inches, and saves it so.
        x, y = AxisGeometry("X"), AxisGeometry("Y")
    z = measured_axis("Z", metadata.get("spacing"), units["z"])
    t = measured_axis("T", metadata.get("finterval"), time_unit(str(metadata.get("tunit", "s"))))
    return Geometry((t, *(_with_origin(axis, metadata) for axis in (z, y, x))))


def _with_origin(axis: AxisGeometry, metadata: dict[str, Any]) -> AxisGeometry:
    """Return the axis with ImageJ's origin: the pixel whose position is 0."""
    origin = metadata.get(f"{axis.letter.lower()}origin")
    if axis.scale is None or not isinstance(origin, int | float):
        return axis
    if not math.isfinite(origin) or origin == 0:
        return axis
    position = plain_number(-exact(origin) * exact(axis.scale))
    return AxisGeometry(axis.letter, axis.unit, axis.scale, position)


def _imagej_size(resolution: Fraction | None) -> Fraction | float | None:
    """Return the shortest number whose resolution ImageJ writes as this one.

    A pixel of 0.65 has the resolution 1.53846153..., which the file holds as 1538461 / 1000000.
    """
    if resolution is None:
        return None
    size = 1 / resolution
    denominator = resolution.denominator
    if denominator < _SMALLEST_CUT_DENOMINATOR or _IMAGEJ_DENOMINATOR % denominator:
        return size
    written = int(resolution * _IMAGEJ_DENOMINATOR)
    for digits in range(1, _MOST_DIGITS + 1):
        short = Fraction(f"{float(size):.{digits}g}")
        if abs(_IMAGEJ_DENOMINATOR / short - written) < 1:
            return short
    return size


def _lsm(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    metadata: dict[str, Any] = tiff.lsm_metadata or {}
    lengths = [_in_micrometers(axis, metadata.get(f"VoxelSize{axis}"), "meter") for axis in "ZYX"]
    # tifffile names the field as the format does.
    return Geometry((measured_axis("T", metadata.get("TimeIntervall"), "second"), *lengths))


def _svs(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    if series is not tiff.series[0]:
        # The label and the thumbnails repeat the size of the slide's pixels.
        return Geometry()
    metadata = tifffile.tifffile.svs_description_metadata(tiff.pages.first.description)
    return Geometry(tuple(measured_axis(axis, metadata.get("MPP"), MICROMETER) for axis in "YX"))


def _stk(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    metadata: dict[str, Any] = tiff.stk_metadata or {}
    if not metadata.get("SpatialCalibration"):
        return Geometry()
    unit = length_unit(str(metadata.get("CalibrationUnits", "")), any_case=True)
    y, x = (measured_axis(axis, metadata.get(f"{axis}Calibration"), unit) for axis in "YX")
    return Geometry((_stk_z(metadata), y, x))


def _stk_z(metadata: dict[str, Any]) -> AxisGeometry:
    """Return the z spacing in micrometres, unknown if the planes are not equidistant."""
    distances = {float(each) for each in metadata.get("ZDistance", ())}
    return measured_axis("Z", distances.pop() if len(distances) == 1 else None, MICROMETER)


def _metaseries(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    metadata: dict[str, Any] = (tiff.metaseries_metadata or {}).get("PlaneInfo", {})
    if not metadata.get("spatial-calibration-state"):
        return Geometry()
    unit = length_unit(str(metadata.get("spatial-calibration-units", "")), any_case=True)
    return Geometry(
        tuple(
            measured_axis(axis, metadata.get(f"spatial-calibration-{axis.lower()}"), unit)
            for axis in "YX"
        )
    )


def _ndpi(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Geometry:
    # Hamamatsu's slide scanners write the true resolution, of each image its own.
    return Geometry(tuple(_resolution_axis(series, axis) for axis in "YX"))


def _plain(series: tifffile.TiffPageSeries) -> Geometry:
    axes = tuple(_resolution_axis(series, axis) for axis in "YX")
    is_fine = all(each.size_um is None or each.size_um < _FINEST_PRINTED_UM for each in axes)
    return Geometry(axes) if is_fine else Geometry()


def _is_printed(axis: AxisGeometry) -> bool:
    size_um = axis.size_um
    return size_um is not None and _FINEST_PRINTED_UM <= size_um <= _COARSEST_PRINTED_UM


def _resolution_axis(series: tifffile.TiffPageSeries, axis: str) -> AxisGeometry:
    resolution = _resolution(series, axis)
    unit = int(series.keyframe.tags.valueof("ResolutionUnit", default=1))
    size = None if resolution is None else 1 / resolution
    return _in_micrometers(axis, size, _RESOLUTION_UNITS.get(unit))


def _resolution(series: tifffile.TiffPageSeries, axis: str) -> Fraction | None:
    """Return the pixels per unit along X or Y, None if the file has none."""
    value = series.keyframe.tags.valueof(f"{axis}Resolution", default=())
    match value:
        case (int(numerator), int(denominator)) if numerator > 0 and denominator > 0:
            return Fraction(numerator, denominator)
        # Some programs write a number where the TIFF specification has a fraction.
        case (int() | float() as number,) if math.isfinite(number) and number > 0:
            return exact(number)
    return None


def _in_micrometers(axis: str, size: Any, unit: str | None) -> AxisGeometry:
    """Return a geometry in micrometres: the format fixes the unit, nobody chose it."""
    factor = um_per(unit)
    known = measured_axis(axis, size, unit)
    if known.scale is None or factor is None:
        return AxisGeometry(axis)
    return measured_axis(axis, exact(size) * factor, MICROMETER)


#: What tifffile calls the kinds of TIFF, in the order in which they are tried.
_KINDS: dict[str, Callable[[tifffile.TiffFile, tifffile.TiffPageSeries], Geometry]] = {
    "is_lsm": _lsm,
    "is_stk": _stk,
    "is_metaseries": _metaseries,
    "is_svs": _svs,
    "is_ndpi": _ndpi,
    "is_imagej": _imagej,
}
