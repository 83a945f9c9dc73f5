"""Statistics of a plane larger than the memory, for a service that receives it in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from samservice.contract.channels import to_gray
from samservice.contract.image_statistics import (
    BRIGHT_OBJECTS,
    FULL_RANGE,
    INTENSITY_RANGE,
    ROBUST_RANGE,
    BrightObjects,
    ChannelRanges,
    ImageStatistics,
    Parts,
    streamed_intensity_range,
    streamed_robust_and_full_range,
)

from ..errors import RequestRefused
from .planes import Planes, bands

KNOWN = (INTENSITY_RANGE, ROBUST_RANGE, FULL_RANGE, BRIGHT_OBJECTS)


def plane_statistics(
    planes: Planes, number: int, wanted: Sequence[str], parameters: Mapping[str, Any]
) -> ImageStatistics:
    """Return the statistics of a whole plane that the service describes, reading it in bands.

    ``wanted`` has the names of the statistics, ``parameters`` are the engine's with defaults.
    Raises ImageUnfit for NaN and infinity, RequestRefused for statistics that this client cannot
    compute.
    """
    if unknown := [name for name in wanted if name not in KNOWN]:
        raise RequestRefused(
            f"for tiles the service needs the image_statistics {', '.join(unknown)}, but this"
            f" client only computes {', '.join(KNOWN)}; update the older of the two, or raise"
            " tiles.above_px"
        )
    height, width = planes.plane_shape[-2:]
    size = height * width
    channels = [_channel_parts(planes, number, channel) for channel in range(planes.channel_count)]
    ranges: ChannelRanges = ()
    robust: ChannelRanges = ()
    full: ChannelRanges = ()
    if not {INTENSITY_RANGE, BRIGHT_OBJECTS}.isdisjoint(wanted):
        ranges = tuple(streamed_intensity_range(each, planes.dtype, size) for each in channels)
    if ROBUST_RANGE in wanted or FULL_RANGE in wanted:
        both = [streamed_robust_and_full_range(each, planes.dtype, size) for each in channels]
        robust, full = zip(*both, strict=True)
    return ImageStatistics(
        (height, width),
        (0, 0),
        intensity_range=ranges if INTENSITY_RANGE in wanted else (),
        robust_range=robust if ROBUST_RANGE in wanted else (),
        full_range=full if FULL_RANGE in wanted else (),
        bright_objects=(
            _bright_objects(planes, number, ranges, parameters)
            if BRIGHT_OBJECTS in wanted
            else None
        ),
    )


def _channel_parts(planes: Planes, number: int, channel: int) -> Parts:
    height, width = planes.plane_shape[-2:]

    def parts() -> Iterator[np.ndarray]:
        for rows in bands(height, width):
            yield planes.read_part(number, rows, slice(0, width), channel)

    return parts


def _bright_objects(
    planes: Planes,
    number: int,
    ranges: Sequence[tuple[float, float]],
    parameters: Mapping[str, Any],
) -> BrightObjects:
    """Return what the watershed engine computes of a whole image, from bands of the plane."""
    try:
        from samservice.contract import bright_objects as whole
    except ImportError as error:
        raise RequestRefused(
            f"tiles for this service need {error.name}: pip install 'samcourier[local]'"
        ) from error
    height, width = planes.plane_shape[-2:]

    def gray(rows: slice) -> np.ndarray:
        pixels = planes.read_part(number, rows, slice(0, width))
        return to_gray(pixels, planes.plane_axes, ranges, clipped=False)

    def smoothed(rows: slice) -> np.ndarray:
        margin = whole.margin_px(scale.sigma_px)
        top, bottom = max(rows.start - margin, 0), min(rows.stop + margin, height)
        smooth = whole.smooth(gray(slice(top, bottom)), scale.sigma_px)
        return smooth[rows.start - top :][: rows.stop - rows.start]

    diameter_px = float(parameters["diameter_px"])
    if not diameter_px:
        diameter_px = whole.diameter_of(
            spectrum
            for edges in _bands_of_squares(whole.grid_edges(height, whole.SCALE_SQUARE_PX), width)
            for spectrum in whole.scale_spectra(
                gray(slice(edges[0], edges[-1])), [edge - edges[0] for edge in edges]
            )
        )
    scale = whole.scale_of(diameter_px, parameters)
    row_edges, column_edges = (whole.grid_edges(size, scale.square_px) for size in (height, width))
    of_bands = [
        whole.grids(
            smoothed(slice(edges[0], edges[-1])),
            scale,
            [edge - edges[0] for edge in edges],
            column_edges,
        )
        for edges in _bands_of_squares(row_edges, width)
    ]
    quartiles, noise = (np.concatenate(parts) for parts in zip(*of_bands, strict=True))
    background = whole.background_grid(quartiles, noise)
    histogram: np.ndarray = np.zeros((), np.int64)
    for rows in bands(height, width):
        level = whole.level_of(smoothed(rows), background, (height, width), (rows.start, 0))
        histogram = histogram + whole.level_histogram(level)
    otsu = whole.threshold_of(histogram, whole.significant_level(noise, parameters))
    return BrightObjects(diameter_px, background, noise, otsu)


def _bands_of_squares(row_edges: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yield, for each band, the borders of its rows of squares."""
    most_rows = max(rows.stop - rows.start for rows in bands(row_edges[-1], width))
    group = [row_edges[0]]
    for edge in row_edges[1:]:
        if edge - group[0] > most_rows and len(group) > 1:
            yield group
            group = [group[-1]]
        group.append(edge)
    yield group
