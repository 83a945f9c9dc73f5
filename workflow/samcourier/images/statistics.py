"""Statistics of a plane larger than the memory, for a service that receives it in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from samservice.contract.channels import to_gray
from samservice.contract.image_statistics import (
    BACKGROUND,
    FULL_RANGE,
    INTENSITY_RANGE,
    LEVELS,
    ROBUST_RANGE,
    ChannelRanges,
    ImageStatistics,
    Levels,
    Parts,
    streamed_intensity_range,
    streamed_robust_and_full_range,
)

from ..errors import RequestRefused
from .planes import Planes, bands

KNOWN = (INTENSITY_RANGE, ROBUST_RANGE, FULL_RANGE, BACKGROUND, LEVELS)


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
            f" client only computes {', '.join(KNOWN)}; update it, or raise tiles.above_px"
        )
    height, width = planes.plane_shape[-2:]
    size = height * width
    channels = [_channel_parts(planes, number, channel) for channel in range(planes.channel_count)]
    ranges: ChannelRanges = ()
    robust: ChannelRanges = ()
    full: ChannelRanges = ()
    if not {INTENSITY_RANGE, BACKGROUND, LEVELS}.isdisjoint(wanted):
        ranges = tuple(streamed_intensity_range(each, planes.dtype, size) for each in channels)
    if ROBUST_RANGE in wanted or FULL_RANGE in wanted:
        both = [streamed_robust_and_full_range(each, planes.dtype, size) for each in channels]
        robust, full = zip(*both, strict=True)
    grid, levels = None, None
    if BACKGROUND in wanted or LEVELS in wanted:
        grid, levels = _levels(planes, number, ranges, parameters)
    return ImageStatistics(
        (height, width),
        (0, 0),
        intensity_range=ranges if INTENSITY_RANGE in wanted else (),
        robust_range=robust if ROBUST_RANGE in wanted else (),
        full_range=full if FULL_RANGE in wanted else (),
        background=grid if BACKGROUND in wanted else None,
        levels=levels if LEVELS in wanted else None,
    )


def _channel_parts(planes: Planes, number: int, channel: int) -> Parts:
    height, width = planes.plane_shape[-2:]

    def parts() -> Iterator[np.ndarray]:
        for rows in bands(height, width):
            yield planes.read_part(number, rows, slice(0, width), channel)

    return parts


def _levels(
    planes: Planes,
    number: int,
    ranges: Sequence[tuple[float, float]],
    parameters: Mapping[str, Any],
) -> tuple[np.ndarray, Levels]:
    """Return the background grid and the levels above it, as the watershed engine needs them."""
    try:
        from samservice.contract import levels as foreground
    except ImportError as error:
        raise RequestRefused(
            f"tiles for this service need {error.name}: pip install 'samcourier[local]'"
        ) from error
    sigma_px, block_px = float(parameters["sigma_px"]), int(parameters["background_px"])
    height, width = planes.plane_shape[-2:]
    row_edges, column_edges = (foreground.grid_edges(size, block_px) for size in (height, width))
    margin = foreground.margin_px(sigma_px)

    def smoothed(rows: slice) -> np.ndarray:
        top, bottom = max(rows.start - margin, 0), min(rows.stop + margin, height)
        pixels = planes.read_part(number, slice(top, bottom), slice(0, width))
        gray = to_gray(pixels, planes.plane_axes, ranges)
        return foreground.smooth(gray, sigma_px)[rows.start - top :][: rows.stop - rows.start]

    quartiles = []
    for edges in _bands_of_squares(row_edges, width):
        band = smoothed(slice(edges[0], edges[-1]))
        quartiles.append(
            foreground.quartiles(band, [edge - edges[0] for edge in edges], column_edges)
        )
    grid = foreground.background_grid(np.concatenate(quartiles))
    histogram: np.ndarray = np.zeros((), np.int64)
    for rows in bands(height, width):
        background = foreground.background(
            grid, (height, width), (rows.start, 0), (rows.stop - rows.start, width)
        )
        histogram = histogram + foreground.level_histogram(smoothed(rows) - background)
    return grid, foreground.levels_of(histogram)


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
