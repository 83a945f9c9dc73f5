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
from ..formatting import plain_lines, redacted


class LazyCommand(NamedTuple):
    """A command that is not imported yet: its module, its name there, and its help's first line."""

    module: str
    attribute: str
    summary: str


COMMANDS = MappingProxyType(
    {
        "batch": LazyCommand(
            "dataset", "batch", "Segment one batch of SHEET and write its manifest to --out."
        ),
        "bench": LazyCommand(
            "service",
            "bench",
            "Compare the transports with the naive client by payload size; write table and plot to"
            " --out.",
        ),
        "check": LazyCommand(
            "results",
            "check",
            "Check that the masks, logs and manifests in DATASET_DIR are complete and agree.",
        ),
        "demo-data": LazyCommand(
            "dataset",
            "demo_data",
            "Write the 24 synthetic images of the demo dataset and their ground truth to"
            " DIRECTORY.",
        ),
        "deploy": LazyCommand(
            "service",
            "deploy",
            "Start the service unless --target is existing, and write its address to --out.",
        ),
        "doctor": LazyCommand(
            "doctor",
            "doctor",
            "Check in under 20 seconds that a run of SHEET can start and succeed.",
        ),
        "monitor": LazyCommand(
            "monitor",
            "monitor",
            "Show the progress of the run in the results folder RUN, e.g. results/demo, until it"
            " ends.",
        ),
        "prune": LazyCommand(
            "results",
            "prune",
            "List the files in DATASET_DIR of images that were removed from the sample sheet.",
        ),
        "report": LazyCommand(
            "dataset",
            "report",
            "Write the report of a run; exit with status 1 if an image has no mask.",
        ),
        "rerun": LazyCommand(
            "rerun",
            "rerun",
            "Make the masks of the run in CRATE again and compare them with the recorded ones.",
        ),
        "segment": LazyCommand(
            "dataset",
            "segment",
            "Segment image files, folders, patterns and plates, or one sample sheet (.tsv).",
        ),
        "serve": LazyCommand(
            "service", "serve", "Serve an engine through a Hypha server until you interrupt it."
        ),
        "sheet": LazyCommand(
            "sheet",
            "sheet",
            "Write a sample sheet of the images in folders, patterns ('*.tif'), OME-Zarr plates"
            " and URLs.",
        ),
        "undeploy": LazyCommand(
            "service",
            "undeploy",
            "Stop the service on its BioEngine worker or SLURM job, even while it is in use.",
        ),
        "verify": LazyCommand(
            "service",
            "verify",
            "Test each transport with a large payload in both directions and write the result to"
            " --out.",
        ),
    }
)


class _Cli(click.Group):
    """Imports a command when it is called; shows expected failures as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command ``cmd_name`` and return it, or None if there is no such command."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        module = import_module(f".{lazy.module}", __package__)
        command: click.Command = getattr(module, lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every command's name and summary, without importing any."""
        # The same layout as click.Group gives to imported commands.
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=lazy.summary).get_short_help_str(limit))
                    for name, lazy in COMMANDS.items()
                ]
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the called command; show a CourierError or an OSError as one line, exit status 1."""
        try:
            return super().invoke(ctx)
        except CourierError as error:
            raise click.ClickException(plain_lines(redacted(str(error)))) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            line = plain_lines(f"{where}{error.strerror or error}")
            raise click.ClickException(line) from error


@click.group(cls=_Cli)
@click.version_option(__version__)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Segment microscopy images with a remote service, over the transport that works fastest."""
    from .terminal import show_log

    ctx.with_resource(show_log())
