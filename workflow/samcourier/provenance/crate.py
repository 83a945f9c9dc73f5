"""Write the results folder as a Workflow Run RO-Crate 0.5.

The standard: https://w3id.org/ro/wfrun/workflow/0.5. A few files in the folder ``provenance``
describe the run; ``ro-crate-metadata.json`` describes each file with the terms of the standard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.run import Report
from ..files.atomic import write_if_changed
from ..results.environment import FOLDER, RECORD, SCRIPT, SHEET, WORKFLOW
from ..results.service_description import read_verified_service
from ..results.timestamps import parse_time
from . import entities
from .entities import CrateFile
from .mask_table import TABLE, make_rows, table_tsv

METADATA = Path("ro-crate-metadata.json")
CONFIG = FOLDER / "config.yaml"
SERVICES = FOLDER / "services.json"


def write_crate(report: Report) -> Path | None:
    """Write the crate of the run of ``report``; return the path of its metadata file.

    Returns None, without writing, if the folder has no record of the run's environment. The same
    results give the same bytes, and files whose content does not change are not written.
    """
    dataset_dir = report.dataset_dir
    run_environment = report.run_environment
    if run_environment is None:
        return None
    rows, services = make_rows(report.outcomes, dataset_dir)
    description = read_verified_service(dataset_dir)
    write_if_changed(dataset_dir / TABLE, table_tsv(rows))
    write_if_changed(dataset_dir / CONFIG, _config_text(run_environment.config))
    write_if_changed(
        dataset_dir / SERVICES,
        _json_text({"services": services, "described_itself": description}),
    )
    finished = [parse_time(row.finished_at) for row in rows if row.finished_at]
    run = entities.Run(
        dataset=dataset_dir.name,
        run_environment=run_environment,
        ended=max([*finished, parse_time(run_environment.started_at)]),
        image_count=len(rows),
        without_mask=report.without_mask,
        services=services,
    )
    metadata = entities.crate_metadata(run, _files(dataset_dir), _folders(dataset_dir))
    write_if_changed(dataset_dir / METADATA, _json_text(metadata))
    return dataset_dir / METADATA


def _files(dataset_dir: Path) -> list[CrateFile]:
    """Return the crate's files with their hashes: report, provenance and workflow, no images."""
    workflow_paths = (dataset_dir / WORKFLOW).rglob("*")
    paths = [
        RECORD,
        CONFIG,
        SHEET,
        TABLE,
        SERVICES,
        SCRIPT,
        Path("report.html"),
        Path("report.tsv"),
    ]
    paths += sorted(path.relative_to(dataset_dir) for path in workflow_paths if path.is_file())
    found = []
    for path in paths:
        if (dataset_dir / path).exists():
            content = (dataset_dir / path).read_bytes()
            found.append(CrateFile(path, hashlib.sha256(content).hexdigest(), len(content)))
    return found


def _folders(dataset_dir: Path) -> Sequence[str]:
    return [name for name in ("masks", "logs", "batches") if (dataset_dir / name).is_dir()]


def _config_text(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
