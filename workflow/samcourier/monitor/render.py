"""Show the state of a run on a terminal, or as one line of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..formatting import duration, plain
from .status import RunView, TransportView
from .tail import ServiceState

#: The view shows the time since the last recorded event if it is longer than this.
QUIET_S = 30.0
#: Number of transports that fit side by side on 80 columns.
MAX_TRANSPORTS = 4
MAX_SERVICES = 4
MAX_LINES = 5
#: Headline, progress, a service, transports and the cursor; a blank line and a title for each list.
_LINES_ABOVE = 17
_LINES_AROUND_A_LIST = 2

_STATE_STYLES = {"running": "cyan", "ended": "green", "stopped": "red", "unrecorded": "yellow"}
_NO_VALUE = "–"
_MOMENT_WIDTH = len("12-31 23:59:59")


def render(view: RunView, height_lines: int | None = None) -> RenderableType:
    """Return the whole view for a rich console.

    ``height_lines`` is the height of the terminal; it limits the lists, and long lines are cut.
    Without it long lines wrap.
    """
    lists = {
        "last switches (UTC)": [
            (each.moment_unix_s, f"{each.batch} {each.what}: {each.reason}")
            for each in view.changes
        ],
        "last errors (UTC)": [
            (each.moment_unix_s, f"{each.image} ({each.kind}): {each.message}")
            for each in view.errors
        ],
    }
    shown = {title: lines for title, lines in lists.items() if lines}
    max_lines = _max_lines(len(shown), height_lines)
    parts: list[RenderableType] = [_headline(view), *_progress(view)]
    if view.transports:
        parts += [Text(), _transport_table(view.transports[:MAX_TRANSPORTS])]
    for title, lines in shown.items():
        parts += [Text(), _list(title, lines[:max_lines], is_cut=height_lines is not None)]
    return Group(*parts)


def _max_lines(list_count: int, height_lines: int | None) -> int:
    if height_lines is None or not list_count:
        return MAX_LINES
    free_lines = height_lines - _LINES_ABOVE - _LINES_AROUND_A_LIST * list_count
    return min(max(free_lines // list_count, 1), MAX_LINES)


def plain_line(view: RunView) -> str:
    """Return the view as one line without colours, for a log file."""
    moment = datetime.fromtimestamp(view.seen_unix_s, UTC)
    used = (
        f"{each.name} {each.calls} calls"
        + (f" {each.failures} failed" if each.failures else "")
        + (f" {_bytes(each.up_bytes_per_s)}/s up" if each.up_bytes_per_s else "")
        for each in view.transports[:MAX_TRANSPORTS]
        if each.calls
    )
    parts = [_state_text(view), _counts(view), *_rates(view), *used]
    return plain(f"{moment:%Y-%m-%dT%H:%M:%SZ} {view.dataset}: {', '.join(parts)}")


def _headline(view: RunView) -> Text:
    line = Text()
    line.append(plain(view.dataset), "bold")
    line.append("  ")
    line.append(plain(_state_text(view)), _STATE_STYLES[view.state])
    return line


def _state_text(view: RunView) -> str:
    after = f" after {duration(view.elapsed_s)}" if view.elapsed_s is not None else ""
    match view.state:
        case "running":
            quiet = view.quiet_s is not None and view.quiet_s > QUIET_S
            since = f", nothing recorded for {duration(view.quiet_s or 0)}" if quiet else ""
            return f"running on {view.host} for {duration(view.elapsed_s or 0)}{since}"
        case "ended":
            return f"ended{after}"
        case "stopped":
            return f"no longer running, stopped{after} without a report"
        case _:
            return "no run is recorded here"


def _progress(view: RunView) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if view.images:
        finished = min(view.done + view.failed, view.images)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=view.images, completed=finished, width=60),
            Text(f"{100 * finished // view.images} %"),
        )
        parts.append(bar)
    counts = Text(_counts(view))
    counts.highlight_regex(r"[1-9][0-9,]* failed", "red")
    parts.append(counts)
    if rates := _rates(view):
        parts.append(Text(", ".join(rates)))
    if view.batches is not None:
        batches = f"batches {view.batches_done:,} of {view.batches:,}"
        if view.running_batches:
            batches += f", running: {_first_names(view.running_batches)}"
        elif view.state == "running" and not view.batches_done:
            batches += ", none running yet: the service starts first"
        parts.append(Text(plain(batches)))
    parts += [Text(plain(_service_line(each))) for each in view.services[:MAX_SERVICES]]
    return parts


def _service_line(state: ServiceState) -> str:
    figures = []
    if state.device_busy is not None:
        figures.append(f"device busy {state.device_busy:.0%}")
    if state.images_per_s is not None:
        figures.append(f"{60 * state.images_per_s:,.1f} images/min for all its users")
    figures.append(f"pipeline depth {state.pipeline_depth}")
    return f"service {state.replica}".rstrip() + f": {', '.join(figures)}"


def _counts(view: RunView) -> str:
    kept = f" ({view.kept:,} of them from earlier runs)" if view.kept else ""
    counts = f"{view.done:,} done{kept}, {view.failed:,} failed"
    if view.images is None:
        return counts
    return f"{counts}, {view.pending:,} left of {view.images:,} images"


def _rates(view: RunView) -> list[str]:
    rates = []
    if view.recent_per_min is not None:
        rates.append(f"{view.recent_per_min:,.1f} images/min now")
    if view.overall_per_min is not None:
        rates.append(f"{view.overall_per_min:,.1f} images/min overall")
    if view.remaining_s is not None:
        rates.append(f"{duration(view.remaining_s)} left")
    return rates


def _first_names(names: tuple[str, ...], max_count: int = 8) -> str:
    more = len(names) - max_count
    return ", ".join(names[:max_count]) + (f" and {more} more" if more > 0 else "")


def _transport_table(transports: Iterable[TransportView]) -> Table:
    """Return a table with the transports side by side, so that they can be compared."""
    rows: tuple[tuple[str, Callable[[TransportView], str]], ...] = (
        ("state", _states),
        ("calls", _calls),
        ("in flight", lambda each: str(each.in_flight)),
        ("sent", lambda each: _amount(each.bytes_up, each.up_bytes_per_s)),
        ("received", lambda each: _amount(each.bytes_down, each.down_bytes_per_s)),
        ("round trip", lambda each: _seconds(each.round_trip_s)),
        ("reconnects", lambda each: _text(each.reconnects)),
        (
            "last heard",
            lambda each: _NO_VALUE if each.heard_s is None else f"{duration(each.heard_s)} ago",
        ),
    )
    transports = list(transports)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for each in transports:
        table.add_column(Text(plain(each.name), "bold"), no_wrap=True)
    for heading, cell in rows:
        table.add_row(heading, *(Text(plain(cell(each))) for each in transports))
    return table


def _states(view: TransportView) -> str:
    if len(view.states) == 1 and view.states[0][1] == 1:
        return view.states[0][0] or _NO_VALUE
    return ", ".join(f"{count} {state}" for state, count in view.states) or _NO_VALUE


def _calls(view: TransportView) -> str:
    return f"{view.calls:,}" + (f", {view.failures:,} failed" if view.failures else "")


def _amount(size_bytes: int, bytes_per_s: float | None) -> str:
    rate = f", {_bytes(bytes_per_s)}/s" if bytes_per_s else ""
    return f"{_bytes(size_bytes)}{rate}"


def _bytes(size_bytes: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            amount = size_bytes / factor
            return f"{amount:,.{0 if amount >= 100 else 1}f} {unit}"
    return f"{size_bytes:.0f} B"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return _NO_VALUE
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _text(number: int | None) -> str:
    return _NO_VALUE if number is None else f"{number:,}"


def _list(title: str, lines: Iterable[tuple[float, str]], is_cut: bool) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, min_width=_MOMENT_WIDTH, style="dim")
    table.add_column(no_wrap=is_cut, overflow="ellipsis" if is_cut else "fold")
    for moment_unix_s, line in lines:
        table.add_row(
            f"{datetime.fromtimestamp(moment_unix_s, UTC):%m-%d %H:%M:%S}", Text(plain(line))
        )
    return Group(Text(title, "bold"), table)
