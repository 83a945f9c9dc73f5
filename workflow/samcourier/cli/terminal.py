"""Terminal output of the commands: log lines, progress bar and Ctrl-C."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..formatting import plain_lines, redacted

if TYPE_CHECKING:
    from ..results.image_log import ImageLog
    from ..results.manifest import Manifest

R = TypeVar("R")

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


def run_interruptibly(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` to its end and return its result. Raises click.Abort on Ctrl-C."""
    import uvloop

    try:
        result: R = uvloop.run(work)
    except KeyboardInterrupt:
        raise click.Abort from None
    return result


class _LogHandler(logging.Handler):
    """Shows log records on standard error, which never carries results.

    A terminal shows warnings and errors in colour; any other output gets plain lines.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record without the control characters that a foreign text may contain."""
        try:
            text = plain_lines(redacted(record.getMessage()))
            if sys.stderr.isatty():
                _show_with_rich(text, _STYLES.get(record.levelno, ""))
            else:
                click.echo(text, err=True)
        except Exception:
            self.handleError(record)


def _show_with_rich(text: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    # A new console each time: a progress bar replaces standard error while it is shown.
    Console(stderr=True).print(Text(text, style), soft_wrap=True)


_log_handler = _LogHandler()


@contextmanager
def show_log() -> Iterator[None]:
    """Show the log records of samcourier while a command runs."""
    logger = logging.getLogger("samcourier")
    before = logger.level, logger.propagate
    logger.addHandler(_log_handler)
    logger.setLevel(logging.INFO)
    # hypha-rpc adds its own handler to the root logger, which would show each record twice.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(_log_handler)
        level, logger.propagate = before
        logger.setLevel(level)


def batch_summary(manifest: Manifest, seconds: float) -> str:
    """Return the line that ends a batch in the log of a run."""
    statuses = Counter(entry.status for entry in manifest.images.values())
    counts = f"{statuses['done']} done, {statuses['failed']} failed"
    return f"batch {manifest.batch}: {counts} in {seconds:.0f} s"


@contextmanager
def progress_of(title: str, image_count: int) -> Iterator[Callable[[ImageLog], None]]:
    """Show a progress bar on a terminal; yield the function to call with the log of each image.

    A terminal shows only warnings beside the bar; any other output gets one line per image.
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

        _log_handler.setLevel(logging.WARNING if console.is_terminal else logging.NOTSET)
        try:
            yield on_image
        finally:
            _log_handler.setLevel(logging.NOTSET)
