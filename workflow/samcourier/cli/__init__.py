"""The command line: every rule of the workflow is one of these commands.

An expected failure is one line on standard error and exit status 1; a traceback is a bug.
Only the command that is called is imported, with what it needs.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from .. import __version__
from ..errors import CourierError
from ..formatting import plain_lines


class Named(NamedTuple):
    """A command that is not imported yet: its module, its name there, and its help's first line."""

    module: str
    attribute: str
    summary: str


COMMANDS = MappingProxyType(
    {
        "batch": Named(
            "dataset", "batch", "Segment one batch of SHEET and write its manifest to --out."
        ),
        "bench": Named(
            "service",
            "bench",
            "Measure the transports by payload size beside the naive client; table and plot go to"
            " --out.",
        ),
        "check": Named(
            "dataset",
            "check",
            "Tell whether the finished folder DATASET_DIR is whole: masks, logs and manifests"
            " agree.",
        ),
        "demo-data": Named(
            "dataset",
            "demo_data",
            "Write the 24 synthetic images of the demo dataset, with their truth, to DIRECTORY.",
        ),
        "deploy": Named(
            "service",
            "deploy",
            "Bring the service up, if it is ours to bring up, and write where it is to --out.",
        ),
        "doctor": Named(
            "doctor",
            "doctor",
            "Look at all that the run of SHEET needs, in under 20 seconds, before it begins.",
        ),
        "monitor": Named(
            "monitor",
            "monitor",
            "Watch the run whose results folder is RUN, e.g. results/demo, until it ends.",
        ),
        "report": Named(
            "dataset",
            "report",
            "Write the report of a run. Exits 1, after writing, when an image has no mask.",
        ),
        "rerun": Named(
            "rerun",
            "rerun",
            "Make the masks of the run in CRATE again, here, and compare them with the recorded"
            " ones.",
        ),
        "segment": Named(
            "dataset",
            "segment",
            "Segment image files, folders, patterns and plates, or one sample sheet (.tsv).",
        ),
        "serve": Named(
            "service", "serve", "Serve an engine through a Hypha server until interrupted."
        ),
        "sheet": Named(
            "sheet",
            "sheet",
            "Write a sample sheet of the images in folders, patterns ('*.tif') and OME-Zarr"
            " plates.",
        ),
        "undeploy": Named(
            "service",
            "undeploy",
            "Take the service away from its BioEngine worker or SLURM job, whoever uses it.",
        ),
        "verify": Named(
            "service",
            "verify",
            "Prove each transport with a large payload both ways; the verdict goes to --out.",
        ),
    }
)


class _Cli(click.Group):
    """Imports a command when it is called; shows expected failures as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command and return it, None when there is none of this name."""
        named = COMMANDS.get(cmd_name)
        if named is None:
            return super().get_command(ctx, cmd_name)
        module = import_module(f".{named.module}", __package__)
        command: click.Command = getattr(module, named.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every command's name and summary, without importing any."""
        # As click.Group does it with commands that it has.
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=named.summary).get_short_help_str(limit))
                    for name, named in COMMANDS.items()
                ]
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called."""
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
@click.pass_context
def main(ctx: click.Context) -> None:
    """Segment microscopy images with a remote service, over the transport that works fastest."""
    from .terminal import shown_log

    ctx.with_resource(shown_log())
