"""``samcourier monitor``: show the progress of a run until it ends."""

from __future__ import annotations

import io
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import example
from .setting_option import POSITIVE

if TYPE_CHECKING:
    from rich.console import Console

    from ..monitor.status import Monitor, RunView

READ_EVERY_S = 0.5
#: Without a terminal, the end of a run is noticed this soon, whatever ``--every-s`` is.
NOTICE_END_S = 2.0
#: Reading may take this share of one core; a larger folder is read less often.
READING_SHARE = 0.1


@click.command(epilog=example("samcourier monitor results/plate7"))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--once", is_flag=True, help="Print one view and exit.")
@click.option(
    "--every-s",
    type=POSITIVE,
    default=10.0,
    show_default=True,
    help="Seconds between lines if the output is not a terminal.",
)
def monitor(run: Path, once: bool, every_s: float) -> None:
    """Show the progress of the run in the results folder RUN, e.g. results/demo, until it ends.

    The command only reads files and never changes the run. Start it in another terminal, during
    or after the run.
    """
    from rich.console import Console

    from ..monitor.render import render
    from ..monitor.status import Monitor

    # A terminal that cannot show a character shows another one.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    monitor = Monitor(run)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if once:
            console.print(render(monitor.read()))
        elif console.is_terminal and not console.is_dumb_terminal:
            _watch_live(monitor, console)
        else:
            _watch_in_lines(monitor, every_s)


def _watch_live(monitor: Monitor, console: Console) -> None:
    from rich.live import Live

    from ..monitor.render import render

    with Live(console=console, auto_refresh=False) as live:
        while True:
            start_s = time.monotonic()
            view = monitor.read()
            live.update(render(view, console.height), refresh=True)
            if has_ended(view):
                return
            time.sleep(max(READ_EVERY_S, (time.monotonic() - start_s) / READING_SHARE))


def _watch_in_lines(monitor: Monitor, every_s: float) -> None:
    from ..monitor.render import plain_line

    next_line_s = time.monotonic()
    while True:
        start_s = time.monotonic()
        view = monitor.read()
        if start_s >= next_line_s or has_ended(view):
            click.echo(plain_line(view))
            next_line_s = start_s + every_s
        if has_ended(view):
            return
        pause_s = min(NOTICE_END_S, max(next_line_s - time.monotonic(), 0.0))
        time.sleep(max(pause_s, (time.monotonic() - start_s) / READING_SHARE))


def has_ended(view: RunView) -> bool:
    """Return whether the run has ended."""
    return view.state != "running"
