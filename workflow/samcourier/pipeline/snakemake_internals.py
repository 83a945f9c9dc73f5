"""Wrappers of the undocumented parts of Snakemake (9.27) that the workflow uses.

``workflow`` is Snakemake's own object of this name. Snakemake documents nothing of this, hence
``min_version`` in the Snakefile and the tests in ``tests/workflow``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from ..formatting import plain_lines

#: The files of the workflow that are no Snakefiles, below the folder of its Snakefile.
CAPTIONS = ("captions/report.rst",)


def is_main_process(workflow: Any) -> bool:
    """Return whether this process plans the run; a cluster's job starts Snakemake again."""
    return bool(workflow.is_main_process)


def is_executing(workflow: Any) -> bool:
    """Return whether jobs will run: False for a dry run, lint or graph, or if all is up to date."""
    if workflow.executor_plugin is None or workflow.dryrun:
        return False
    return any(True for _ in workflow.dag.needrun_jobs())


def is_dry_run(workflow: Any) -> bool:
    """Return whether the run only shows its jobs (``-n``)."""
    return bool(workflow.dryrun)


def is_touching(workflow: Any) -> bool:
    """Return whether the run only marks files as up to date (``--touch``)."""
    return bool(workflow.touch)


def jobs_run_here(workflow: Any) -> bool:
    """Return whether jobs run on this machine instead of a cluster."""
    return bool(workflow.local_exec)


def limit_resource(workflow: Any, name: str, count: int) -> None:
    """Limit the jobs of a run to ``count`` units of the resource ``name`` at a time."""
    workflow.global_resources[name] = count


def remake(workflow: Any, path: object) -> None:
    """Make Snakemake rebuild ``path`` if it is part of the requested targets, like ``--forcerun``.

    Call it from input functions: the graph exists by then, and Snakemake chooses the jobs after
    them. No file is touched, so a dry run shows the repair and changes nothing.
    """
    workflow.dag.forcefiles.add(str(path))


def jobs_to_run(workflow: Any, rule: Any) -> list[Any]:
    """Return the jobs of ``rule`` that this run will execute, after Snakemake has chosen them."""
    return [job for job in workflow.dag.needrun_jobs() if job.rule == rule]


def is_planned(workflow: Any, rule: Any) -> bool:
    """Return whether a job of ``rule`` is part of the requested targets."""
    return any(job.rule == rule for job in workflow.dag.jobs)


def latency_wait_s(workflow: Any) -> float:
    """Return the seconds within which a file from another machine must become visible here."""
    settings = workflow.execution_settings
    return 0.0 if settings is None else float(settings.latency_wait)


def module_name(workflow: Any) -> str:
    """Return the name under which another workflow uses this one, "" for the main workflow."""
    return workflow.modifier.namespace or ""


def config_texts(workflow: Any) -> dict[str, str]:
    """Return the text of each ``--config KEY=VALUE``, before Snakemake reads numbers in it."""
    settings = getattr(workflow, "config_settings", None)
    pairs = (word.split("=", 1) for word in getattr(settings, "config_args", None) or ())
    return {pair[0]: pair[1].strip("'\"") for pair in pairs if len(pair) == 2}


def forget_config_files(workflow: Any) -> None:
    """Keep the jobs of this run from reading the files of ``--configfile`` again."""
    workflow.overwrite_configfiles.clear()


@contextmanager
def workflow_on_disk(workflow: Any, snakefile: Any) -> Iterator[Path]:
    """Yield the path of ``snakefile`` on the disk, with the files of its workflow beside it.

    The workflow of a module may be in a git repository or on its host: then its Snakefiles and
    captions are written to a temporary folder, from the copies that Snakemake keeps of them.
    """
    path = Path(str(getattr(snakefile, "path", snakefile)))
    if path.is_file() or not hasattr(snakefile, "get_basedir"):
        yield path
        return
    home = snakefile.get_basedir()
    sources = {_below(home, each): each for each in workflow.included}
    sources |= {name: home.join(name) for name in CAPTIONS}
    with TemporaryDirectory() as folder:
        for name, source in sources.items():
            if name is not None:
                copy = Path(folder, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                with workflow.sourcecache.open(source) as stream:
                    # Of a file in git, Snakemake drops the last line end.
                    copy.write_text(stream.read().rstrip("\n") + "\n", encoding="utf-8")
        yield Path(folder, path.name)


def _below(home: Any, source: Any) -> str | None:
    """Return the path of a source file below the folder ``home``, None if it is elsewhere."""
    (where, folder), (whose, path) = (_address(each) for each in (home, source))
    return path.removeprefix(f"{folder}/") if where == whose and path.startswith(folder) else None


def _address(source: Any) -> tuple[str, str]:
    """Return the repository with its version, and the path in it, of a source file."""
    uri = source.get_path_or_uri(secret_free=True)
    path = str(getattr(source, "path", uri))
    return uri.replace(path, "", 1), path


def end_run(problem: object) -> NoReturn:
    """Log ``problem`` and exit with status 1, without a traceback through the Snakefiles."""
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
    """Append the interpreter's folder to PATH, so that jobs find samcourier.

    The environment need not be activated.
    """
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{folder}"
