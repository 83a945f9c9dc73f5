"""Plot the comparison of the transports: throughput in each direction, and time of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from .table import BASELINE, Row, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind readers can distinguish; the markers differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "P", "X")
_BASELINE_COLOUR = "#555555"

_GRID_COLOUR = "#D9D9D9"
_PNG_DOTS_PER_INCH = 160

#: Position on the payload axis where an empty call is drawn.
_EMPTY_AT_BYTES = 16 << 10


def plot_table(rows: Sequence[Row], directory: Path) -> None:
    """Write ``plot.png`` and ``plot.svg``. Raises ImportError without matplotlib.

    The points are medians, the bars extend from the fastest to the slowest run.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.seconds]
    sizes = sorted({row.payload_bytes or 0 for row in measured})
    with rc_context({"font.size": 9, "svg.hashsalt": "samcourier"}):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        up, down, both = figure.subplots(1, 3)
        down.sharey(up)
        for axes, direction, title in (
            (up, "up", "Throughput to the service"),
            (down, "down", "Throughput from the service"),
            (both, "both", "Time of a call, payload in both directions"),
        ):
            _draw_frame(axes, title, sizes, shows_time=direction == "both")
            for style in _styles(measured):
                _draw_line(axes, style, [row for row in measured if row.direction == direction])
            _set_value_ticks(axes)
        figure.supxlabel(
            "Random bytes, one call at a time. Points: medians. Bars: fastest to slowest run.",
            fontsize=8,
            color=_BASELINE_COLOUR,
        )
        # A transport may have no line in some panels.
        handles = {
            label: handle
            for axes in (up, down, both)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=len(_COLOURS) + 1,
            frameon=False,
            fontsize=10,
        )
        figure.savefig(directory / "plot.png", dpi=_PNG_DOTS_PER_INCH)
        figure.savefig(directory / "plot.svg", metadata={"Date": None})


@dataclass(frozen=True)
class _Style:
    transport: str
    colour: str
    marker: str
    line: str = "-"


def _styles(rows: Sequence[Row]) -> list[_Style]:
    names = [name for name in dict.fromkeys(row.transport for row in rows) if name != BASELINE]
    styles = zip(names, cycle(_COLOURS), cycle(_MARKERS), strict=False)
    return [*(_Style(*style) for style in styles), _Style(BASELINE, _BASELINE_COLOUR, "D", "--")]


def _draw_frame(axes: Axes, title: str, sizes: Sequence[int], *, shows_time: bool) -> None:
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("payload")
    axes.set_ylabel("time" if shows_time else "MB/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = {size: size_text(size).replace(" ", "\n") for size in sizes}
    if shows_time:
        ticks = {_EMPTY_AT_BYTES: "none"} | ticks
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(
        EngFormatter(unit="s") if shows_time else StrMethodFormatter("{x:g}")
    )
    axes.grid(axis="y", color=_GRID_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _set_value_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1000 else (1, 2, 5)))


def _draw_line(axes: Axes, style: _Style, rows_of_panel: Sequence[Row]) -> None:
    """Draw one transport: the medians with their range, and the time of an empty call."""
    rows = [row for row in rows_of_panel if row.transport == style.transport]
    if not rows:
        return
    medians = [_plotted_value(row, row.seconds) for row in rows]
    ends = [
        sorted((_plotted_value(row, row.fastest_s), _plotted_value(row, row.slowest_s)))
        for row in rows
    ]
    axes.errorbar(
        [row.payload_bytes or 0 for row in rows],
        medians,
        yerr=[
            [median - low for median, (low, _) in zip(medians, ends, strict=True)],
            [high - median for median, (_, high) in zip(medians, ends, strict=True)],
        ],
        label="naive (hypha-rpc with its defaults)"
        if style.transport == BASELINE
        else style.transport,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=4.5,
        linewidth=1.4,
        elinewidth=0.8,
    )
    if rows[0].direction == "both" and rows[0].round_trip_s:
        axes.plot(
            _EMPTY_AT_BYTES,
            rows[0].round_trip_s,
            color=style.colour,
            marker=style.marker,
            markersize=4.5,
        )


def _plotted_value(row: Row, seconds: float | None) -> float:
    """Return the value in the row's panel for a call of ``seconds``: seconds or MB/s."""
    if not seconds or not row.payload_bytes:
        return 0.0
    return seconds if row.direction == "both" else row.payload_bytes / seconds / 1e6
