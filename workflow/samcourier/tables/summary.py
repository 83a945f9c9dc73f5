"""A summary of each image and of each group of images: counts, densities and medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..formatting import format_tsv, plain
from .objects import read_table
from .sources import ImageTable

#: Columns of the object table whose median is in the summary; intensities follow by channel.
_OF_OBJECTS = (
    *("area_px", "area_um2", "volume_px", "volume_um3"),
    *("equivalent_diameter_um", "eccentricity"),
)
_INTENSITY = "intensity_mean"
_UM2_PER_MM2 = 1e6

Number = int | float


@dataclass(frozen=True)
class ImageSummary:
    """The summary of one image.

    Attributes:
        image: Id of the image.
        properties: Those of the image.
        status: done, failed or missing.
        object_count: Number of objects; None without a mask.
        area_mm2: Area of all planes of the image; None for a volume and without a pixel size.
        medians: Median over the objects, by column of the object table.
    """

    image: str
    properties: Mapping[str, str]
    status: str
    object_count: int | None
    area_mm2: float | None
    medians: Mapping[str, Number] = field(default_factory=dict)

    @property
    def density_per_mm2(self) -> float | None:
        """Objects per square millimetre."""
        return _density(self.object_count, self.area_mm2)


@dataclass(frozen=True)
class GroupSummary:
    """The summary of the images that share one value of a property.

    Attributes:
        name: The property, "" for all images.
        value: Its value.
        images: Number of images, also without a mask.
        done: Number of images with a mask; all other figures are of these.
        object_count: Objects of all images.
        median_count: Median number of objects of an image.
        density_per_mm2: Objects per area of those images whose area is known.
        medians: Median over the images of their medians, by column of the object table.
    """

    name: str
    value: str
    images: int
    done: int
    object_count: int
    median_count: float | None
    density_per_mm2: float | None
    medians: Mapping[str, Number]


def summarise_image(table: ImageTable) -> ImageSummary:
    """Return the summary of one image; its table is read."""
    outcome = table.outcome
    objects = read_table(table.path) if table.path is not None else None
    return ImageSummary(
        table.image,
        table.properties,
        outcome.status,
        outcome.object_count,
        None if objects is None else _area_mm2(table, objects),
        {} if objects is None else _medians(objects),
    )


def summarise_groups(images: Sequence[ImageSummary]) -> list[GroupSummary]:
    """Return the summary of all images, then of each value of each property, in order."""
    names = dict.fromkeys(name for each in images for name in each.properties)
    groups = [_group("", "", images)]
    for name in names:
        for value in dict.fromkeys(each.properties.get(name, "") for each in images):
            own = [each for each in images if each.properties.get(name, "") == value]
            groups.append(_group(name, value, own))
    return groups


def images_tsv(images: Sequence[ImageSummary]) -> str:
    """Return ``summary.tsv``: a header and one row per image."""
    properties = list(dict.fromkeys(name for each in images for name in each.properties))
    columns = _columns(images)
    header = ["image", *properties, "status", "object_count", "area_mm2", "density_per_mm2"]
    rows = [
        [
            *(each.image, *(each.properties.get(name, "") for name in properties), each.status),
            *(each.object_count, each.area_mm2, each.density_per_mm2),
            *(each.medians.get(column) for column in columns),
        ]
        for each in images
    ]
    return _tsv([[*header, *(f"median_{column}" for column in columns)], *rows])


def groups_tsv(groups: Sequence[GroupSummary]) -> str:
    """Return ``groups.tsv``: a header and one row per value of each property."""
    columns = _columns(groups)
    header = ["property", "value", "images", "images_with_mask", "object_count", "median_count"]
    header += ["density_per_mm2", *(f"median_{column}" for column in columns)]
    rows = [
        [
            *(each.name or "(all)", each.value, each.images, each.done, each.object_count),
            *(each.median_count, each.density_per_mm2),
            *(each.medians.get(column) for column in columns),
        ]
        for each in groups
    ]
    return _tsv([header, *rows])


def _group(name: str, value: str, images: Sequence[ImageSummary]) -> GroupSummary:
    done = [each for each in images if each.object_count is not None]
    counts = [each.object_count or 0 for each in done]
    measured = [each for each in done if each.area_mm2 is not None]
    area_mm2 = math.fsum(each.area_mm2 or 0.0 for each in measured)
    columns = _columns(done)
    medians = {
        column: statistics.median(each.medians[column] for each in done if column in each.medians)
        for column in columns
    }
    return GroupSummary(
        name,
        value,
        len(images),
        len(done),
        sum(counts),
        statistics.median(counts) if counts else None,
        _density(sum(each.object_count or 0 for each in measured), area_mm2 or None),
        medians,
    )


def _columns(of: Iterable[ImageSummary | GroupSummary]) -> list[str]:
    """Return the names of all medians: sizes first, then the channels in their order."""
    found = dict.fromkeys(name for each in of for name in each.medians)
    fixed = [name for name in _OF_OBJECTS if name in found]
    return fixed + [name for name in found if name not in _OF_OBJECTS]


def _density(count: int | None, area_mm2: float | None) -> float | None:
    return None if count is None or not area_mm2 else count / area_mm2


def _medians(objects: pa.Table) -> dict[str, Number]:
    names = [name for name in _OF_OBJECTS if name in objects.column_names]
    names += [name for name in objects.column_names if name.startswith(_INTENSITY)]
    found: dict[str, Number] = {}
    for name in names:
        values = objects.column(name).drop_null().to_numpy()
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if len(values):
            found[name] = float(np.median(values))
    return found


def _area_mm2(table: ImageTable, objects: pa.Table) -> float | None:
    """Return the area of all planes; of a volume it is not defined."""
    log, pixel_um2 = table.outcome.log, _pixel_um2(objects)
    if log is None or log.shape is None or log.axes is None or pixel_um2 is None:
        return None
    sizes = dict(zip(log.axes, log.shape, strict=True))
    return log.planes * sizes["Y"] * sizes["X"] * pixel_um2 / _UM2_PER_MM2


def _pixel_um2(objects: pa.Table) -> float | None:
    """Return the area of a pixel, from the metadata or, in a CSV, from an object's two areas."""
    stored = (objects.schema.metadata or {}).get(b"samcourier_pixel_um2")
    if stored is not None:
        return float(stored)
    areas = (
        [objects.column(name)[0].as_py() for name in ("area_px", "area_um2")]
        if (objects.num_rows and "area_px" in objects.column_names)
        else [None, None]
    )
    return areas[1] / areas[0] if areas[0] and areas[1] else None


def _tsv(rows: Iterable[Iterable[Any]]) -> str:
    return format_tsv([[_cell(value) for value in row] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else plain(str(value))
