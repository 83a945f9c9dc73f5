"""An environment variable through which the jobs of a run find the run's settings file.

A cluster's job starts Snakemake again, which would otherwise read the config again. Executors pass
their environment to their jobs (SLURM's through ``sbatch --export=ALL``).
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from pathlib import Path

from ..files.strict_json import parse_json

#: A JSON object: name of the module ("" for a main workflow) -> its settings file.
VARIABLE = "SAMCOURIER_SETTINGS"


def pass_settings_to_jobs(
    module: str, settings_path: Path, environment: MutableMapping[str, str] = os.environ
) -> None:
    """Add the settings file of ``module`` to the environment of this run's jobs."""
    known = _known(environment)
    environment[VARIABLE] = json.dumps(known | {module: str(settings_path.absolute())})


def settings_passed_by_run(
    module: str, environment: MutableMapping[str, str] = os.environ
) -> Path | None:
    """Return the settings file that this job's run wrote for ``module``, None if there is none."""
    path = _known(environment).get(module)
    return None if path is None else Path(path)


def _known(environment: MutableMapping[str, str]) -> dict[str, str]:
    known = parse_json(environment.get(VARIABLE, "{}").encode())
    return known if isinstance(known, dict) else {}
