"""What the workflow uses of Snakemake beyond its documented interface (9.27), by what it is for.

``workflow`` is Snakemake's own object of this name. Everything here is undocumented there, hence
``min_version`` in the Snakefile and the tests in ``tests/workflow``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from ..formatting import plain_lines


def is_main_process(workflow: Any) -> bool:
    """Tell whether this process plans the run; a cluster's job starts Snakemake once more."""
    return bool(workflow.is_main_process)


def is_executing(workflow: Any) -> bool:
    """Tell whether jobs will run: no dry run, no lint, no look at the graph, nothing up to date."""
    if workflow.executor_plugin is None or workflow.dryrun:
        return False
    return any(True for _ in workflow.dag.needrun_jobs())


def is_touching(workflow: Any) -> bool:
    """Tell whether the run marks files as up to date and makes none (``--touch``)."""
    return bool(workflow.touch)


def jobs_run_here(workflow: Any) -> bool:
    """Tell whether jobs run on this machine, and not on a cluster."""
    return bool(workflow.local_exec)


def limit_resource(workflow: Any, name: str, count: int) -> None:
    """Let the jobs of a run use no more than ``count`` of a resource at a time."""
    workflow.global_resources[name] = count


def remake(workflow: Any, path: object) -> None:
    """Have Snakemake make ``path`` anew if it is part of what is asked for, like ``--forcerun``.

    For input functions: the graph exists by then, and what must be made anew is decided after
    them. No file is touched, so a dry run shows the repair and changes nothing.
    """
    workflow.dag.forcefiles.add(str(path))


def jobs_to_run(workflow: Any, rule: Any) -> list[Any]:
    """Return the jobs of ``rule`` that this run makes, once that is decided."""
    return [job for job in workflow.dag.needrun_jobs() if job.rule == rule]


def is_planned(workflow: Any, rule: Any) -> bool:
    """Tell whether a job of ``rule`` is part of what is asked for."""
    return any(job.rule == rule for job in workflow.dag.jobs)


def latency_wait_s(workflow: Any) -> float:
    """Return the seconds until a file written on another machine must be seen here."""
    settings = workflow.execution_settings
    return 0.0 if settings is None else float(settings.latency_wait)


def module_name(workflow: Any) -> str:
    """Return the name by which another workflow uses this one; "" where it is the main one."""
    return workflow.modifier.namespace or ""


def forget_config_files(workflow: Any) -> None:
    """Keep the jobs of this run from reading the files of ``--configfile`` again."""
    workflow.overwrite_configfiles.clear()


def end_run(problem: object) -> NoReturn:
    """End Snakemake with these words alone, without a traceback through the Snakefiles."""
    from snakemake.logging import logger

    for line in plain_lines(str(problem)).splitlines():
        logger.error(f"samcourier: {line}")
    sys.exit(1)


def show(lines: Iterable[str]) -> None:
    """Print lines in Snakemake's log."""
    from snakemake.logging import logger

    for line in lines:
        logger.info(line)


def add_interpreter_to_path() -> None:
    """Let a Snakemake find the ``samcourier`` beside it without activation of the environment."""
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{folder}"
