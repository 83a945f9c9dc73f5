"""Run snakemake in a process forked from one that has imported it: start-up is most of a run.

For ``runpy.run_path`` with ``job`` = {"directory", "environment", "output", "arguments"}.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main(job: dict[str, Any]) -> None:
    from snakemake.cli import main as snakemake

    os.setsid()
    os.chdir(job["directory"])
    os.environ.clear()
    os.environ.update(job["environment"])
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    sys.argv = ["snakemake", *job["arguments"]]
    snakemake()


main(globals()["job"])
