"""What a command shares with the terminal it was typed into."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import uvloop

from ..formatting import plain_lines

R = TypeVar("R")


def run_interruptibly(work: Coroutine[Any, Any, R]) -> R:
    """Run to the end; Ctrl-C is no traceback."""
    try:
        result: R = uvloop.run(work)
    except KeyboardInterrupt:
        raise click.Abort from None
    return result


def say(line: str) -> None:
    """Print a line on standard error; standard output is for results."""
    click.echo(plain_lines(line), err=True)
