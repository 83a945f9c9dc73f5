"""What a command shares with the terminal it was typed into."""

from __future__ import annotations

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


def run_interruptibly(work: Coroutine[Any, Any, R]) -> R:
    """Run to the end; Ctrl-C is no traceback."""
    import uvloop

    try:
        result: R = uvloop.run(work)
    except KeyboardInterrupt:
        raise click.Abort from None
    return result


def say(line: str) -> None:
    """Print a line on standard error; standard output is for results."""
    click.echo(plain_lines(line), err=True)


def batch_in_words(manifest: Manifest, seconds: float) -> str:
    """Return the line that ends a batch in the log of a run."""
    statuses = Counter(entry.status for entry in manifest.images.values())
    said = f"batch {manifest.batch}: {statuses['done']} done, {statuses['failed']} failed"
    return f"{said} in {seconds:.0f} s"


def say_outcome(log: ImageLog) -> None:
    """Print how an image ended, and which of its outputs could not be made."""
    if log.failure is not None:
        line = f"failed ({log.failure.kind}): {log.failure.name}: {log.failure.message}"
    else:
        carried = log.attempts[-1].transport if log.attempts and not log.reused else "no call"
        line = f"{log.object_count} objects, {carried}"
    say(f"{log.image}: {line}")
    for name, output in log.outputs.items():
        if output.refused is not None:
            say(f"{log.image}: no {name}: {output.refused}")


@contextmanager
def progress_of(title: str, image_count: int) -> Iterator[Callable[[ImageLog], None]]:
    """Show a progress bar on a terminal; yield what must be called with the log of each image.

    Elsewhere, in a log file, each image has a line.
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
            if log.failure is not None or not console.is_terminal:
                say_outcome(log)

        yield on_image
