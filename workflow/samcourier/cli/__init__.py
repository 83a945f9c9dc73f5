"""The command line: every rule of the workflow is one of these commands.

An expected failure is one line on standard error and exit status 1; a traceback is a bug.
"""

from __future__ import annotations

from typing import Any

import click

from .. import __version__
from ..errors import CourierError
from ..formatting import plain_lines
from .dataset import batch, check, demo_data, report, segment
from .doctor import doctor
from .monitor import monitor
from .rerun import rerun
from .service import bench, deploy, serve, undeploy, verify
from .sheet import sheet


class _Cli(click.Group):
    """Shows expected failures as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CourierError as error:
            raise click.ClickException(plain_lines(str(error))) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            line = plain_lines(f"{where}{error.strerror or error}")
            raise click.ClickException(line) from error


@click.group(cls=_Cli)
@click.version_option(__version__)
def main() -> None:
    """Segment microscopy images with a remote service, over the transport that works fastest."""


_commands = (
    demo_data,
    sheet,
    deploy,
    verify,
    doctor,
    undeploy,
    bench,
    batch,
    segment,
    report,
    check,
    monitor,
    rerun,
)
for _command in (*_commands, serve):
    main.add_command(_command)
