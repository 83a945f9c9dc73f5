"""What a command shares with the terminal it was typed into."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..formatting import plain_lines

if TYPE_CHECKING:
    from ..results.image_log import ImageLog
    from ..results.manifest import Manifest

R = TypeVar("R")

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


def run_interruptibly(work: Coroutine[Any, Any, R]) -> R:
    """Run to the end; Ctrl-C is no traceback."""
    import uvloop

    try:
        result: R = uvloop.run(work)
    except KeyboardInterrupt:
        raise click.Abort from None
    return result


class _Shown(logging.Handler):
    """Shows what is logged on standard error, which is free of results.

    On a terminal with rich, warnings and errors in colour; elsewhere as plain lines.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record; others' control characters in it do not reach the terminal."""
        try:
            text = plain_lines(record.getMessage())
            if sys.stderr.isatty():
                _show_with_rich(text, _STYLES.get(record.levelno, ""))
            else:
                click.echo(text, err=True)
        except Exception:
            self.handleError(record)


def _show_with_rich(text: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    # Made anew, since standard error is another file while a progress bar is shown.
    Console(stderr=True).print(Text(text, style), soft_wrap=True)


_shown = _Shown()


@contextmanager
def shown_log() -> Iterator[None]:
    """Show what samcourier logs, while a command runs."""
    logger = logging.getLogger("samcourier")
    before = logger.level, logger.propagate
    logger.addHandler(_shown)
    logger.setLevel(logging.INFO)
    # hypha-rpc gives the root logger a handler of its own, which would show it again.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(_shown)
        level, logger.propagate = before
        logger.setLevel(level)


def batch_in_words(manifest: Manifest, seconds: float) -> str:
    """Return the line that ends a batch in the log of a run."""
    statuses = Counter(entry.status for entry in manifest.images.values())
    said = f"batch {manifest.batch}: {statuses['done']} done, {statuses['failed']} failed"
    return f"{said} in {seconds:.0f} s"


@contextmanager
def progress_of(title: str, image_count: int) -> Iterator[Callable[[ImageLog], None]]:
    """Show a progress bar on a terminal; yield what must be called with the log of each image.

    Beside the bar only warnings are shown; elsewhere, in a log file, each image has a line.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=image_count)

        def on_image(log: ImageLog) -> None:
            progress.advance(task)

        _shown.setLevel(logging.WARNING if console.is_terminal else logging.NOTSET)
        try:
            yield on_image
        finally:
            _shown.setLevel(logging.NOTSET)
