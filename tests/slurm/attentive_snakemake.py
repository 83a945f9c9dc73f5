"""snakemake, whose SLURM executor looks every second what became of its jobs.

The plugin itself waits 10 s longer after each look at which no job has ended, up to three minutes:
for most of a run's time here.
"""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

LOOK_AGAIN_S = 1.0


async def sleep(self: RemoteExecutor) -> None:
    await asyncio.sleep(LOOK_AGAIN_S)


if __name__ == "__main__":
    RemoteExecutor.sleep = sleep
    sys.exit(main())
