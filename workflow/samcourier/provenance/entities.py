"""Describe a run with the terms of Workflow Run RO-Crate 0.5, as JSON-LD from plain values.

Requirements: https://w3id.org/ro/wfrun/workflow/0.5, https://w3id.org/ro/wfrun/process/0.5 and
https://w3id.org/workflowhub/workflow-ro-crate/1.0.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..formatting import plain
from ..results.environment import RECORD, SCRIPT, SHEET, SNAKEFILE, RunEnvironment
from ..results.service_description import version_text
from ..results.timestamps import parse_time

RO_CRATE = "https://w3id.org/ro/crate/1.1"
#: RO-Crate 1.1 has no term ``sha256``, but the vocabulary of Workflow Run Crate has it.
CONTEXT = [f"{RO_CRATE}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
#: samcourier does not know the license, and the standard requires a value.
LICENSE = "No license is stated: ask the owner of the images"

_MEDIA_TYPES = {
    ".html": "text/html",
    ".json": "application/json",
    ".sh": "text/x-shellscript",
    ".rst": "text/x-rst",
    ".smk": "text/plain",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
    "": "text/plain",
}
_FILE_DESCRIPTIONS = {
    "provenance/config.yaml": (
        "the config of the run with all default values, for snakemake --configfile"
    ),
    "provenance/images.tsv": "the sample sheet: each image and which planes were segmented",
    "provenance/masks.tsv": (
        "one row per image: its status, the sha256 of the pixels sent and of the labels received,"
        " and the key computed from pixels, parameters and model"
    ),
    "provenance/run.json": "software, machine, git commit and settings at the start of the run",
    "provenance/segment.sh": "the command that made the masks",
    "provenance/services.json": (
        "engine, model, versions and device of each service that segmented images"
    ),
    "report.html": "the report of the run",
    "report.tsv": "the report as a table: transports, times and objects of each image",
}
_FOLDER_DESCRIPTIONS = {
    "masks": "the label images, one OME-Zarr per image, named by the id of the image",
    "logs": "one log per image: all calls with transport, times and bytes, and reasons of failures",
    "batches": "one manifest per batch: the status of each of its images",
}


@dataclass(frozen=True)
class Run:
    """A run as the crate describes it.

    ``services`` are the identities of the services that made its masks (SERVICE_IDENTITY).
    """

    dataset: str
    run_environment: RunEnvironment
    ended: datetime
    image_count: int
    without_mask: Sequence[str]
    services: Sequence[dict[str, Any]]

    @property
    def action_id(self) -> str:
        """Identifier of the run; it is the same each time that the crate of the run is written."""
        name = f"{self.dataset} {self.run_environment.started_at}"
        return f"#{uuid.uuid5(uuid.NAMESPACE_OID, name)}"


def crate_metadata(run: Run, files: Sequence[CrateFile], folders: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of the crate: a JSON-LD document with one ``@graph``.

    ``files`` and ``folders`` are the parts of the crate.
    """
    parts = [*(_file(each, run) for each in files), *(_folder(name) for name in folders)]
    graph = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": _ref("./"),
            "conformsTo": [
                _ref(RO_CRATE),
                _ref("https://w3id.org/workflowhub/workflow-ro-crate/1.0"),
            ],
        },
        _root(run, parts),
        *(
            {"@id": url, "@type": "CreativeWork", "name": name, "version": version}
            for url, (name, version) in PROFILES.items()
        ),
        _action(run, {part["@id"] for part in parts}),
        *parts,
        *_parameters(run),
        *_software(run),
    ]
    return {"@context": CONTEXT, "@graph": graph}


def _ref(identifier: str) -> dict[str, str]:
    return {"@id": identifier}


def _refs(identifiers: Iterable[str]) -> list[dict[str, str]]:
    return [_ref(each) for each in identifiers]


def _workflow_id(run: Run) -> str:
    path: Path = SNAKEFILE if run.run_environment.command == "snakemake" else SCRIPT
    return path.as_posix()


def _root(run: Run, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Segmentation of {run.dataset}",
        "description": (
            f"Masks of {run.image_count - len(run.without_mask)} of {run.image_count} microscopy"
            " images, and all information to make the same masks again (samcourier rerun)."
        ),
        "datePublished": run.ended.isoformat(timespec="seconds"),
        "license": LICENSE,
        "conformsTo": _refs(PROFILES),
        "hasPart": _refs(part["@id"] for part in parts),
        "mainEntity": _ref(_workflow_id(run)),
        "mentions": _ref(run.action_id),
    }


def _action(run: Run, present: set[str]) -> dict[str, Any]:
    environment = run.run_environment
    count = len(run.without_mask)
    results = [
        each for each in ("masks/", "provenance/masks.tsv", "report.html") if each in present
    ]
    machine = environment.machine
    outcome: dict[str, Any] = {"actionStatus": "http://schema.org/CompletedActionStatus"}
    if count:
        outcome = {
            "actionStatus": "http://schema.org/FailedActionStatus",
            "error": f"{count} of {run.image_count} images have no mask",
        }
    return {
        "@id": run.action_id,
        "@type": "CreateAction",
        "name": f"Segmentation of {run.dataset} by samcourier {environment.samcourier}",
        "description": (
            f"{environment.command} on {machine.system}, {machine.architecture},"
            f" {machine.cores} cores; provenance/masks.tsv has the time of each mask,"
            " also of masks from earlier runs"
        ),
        "startTime": _seconds(environment.started_at),
        "endTime": run.ended.isoformat(timespec="seconds"),
        "instrument": _ref(_workflow_id(run)),
        "object": _refs(
            [SHEET.as_posix(), "provenance/config.yaml", "#parameters-as-used"]
            + [f"#model-{number}" for number, _ in enumerate(run.services, start=1)]
        ),
        "result": _refs(results),
        **outcome,
    }


def _seconds(moment: str) -> str:
    return parse_time(moment).isoformat(timespec="seconds")


def _file(file: CrateFile, run: Run) -> dict[str, Any]:
    name = file.path.as_posix()
    entity: dict[str, Any] = {
        "@id": name,
        "@type": "File",
        "name": file.path.name,
        "description": _FILE_DESCRIPTIONS.get(
            name, "a file of the workflow, copied at the start of the run"
        ),
        "encodingFormat": _MEDIA_TYPES.get(file.path.suffix, "application/octet-stream"),
        "contentSize": str(file.size_bytes),
        "sha256": file.sha256,
    }
    if name == _workflow_id(run):
        entity |= _main_workflow(run)
    if name == SHEET.as_posix():
        entity["exampleOfWork"] = _ref("#sheet")
    if name == RECORD.as_posix():
        entity["about"] = _ref(run.action_id)
    return entity


def _folder(name: str) -> dict[str, Any]:
    entity: dict[str, Any] = {
        "@id": f"{name}/",
        "@type": "Dataset",
        "name": name,
        "description": _FOLDER_DESCRIPTIONS[name],
    }
    if name == "masks":
        entity["exampleOfWork"] = _ref("#masks")
    return entity


def _main_workflow(run: Run) -> dict[str, Any]:
    environment = run.run_environment
    is_snakemake = environment.command == "snakemake"
    commit = environment.workflow.commit
    changed = " with uncommitted changes" if environment.workflow.is_dirty else ""
    return {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "samcourier",
        "description": "segments each image of a sample sheet with a remote service"
        + (f"; commit {commit}{changed}" if commit else ""),
        "version": environment.samcourier + (f"+{commit[:12]}" if commit else ""),
        "programmingLanguage": _ref("#snakemake" if is_snakemake else "#shell"),
        "runtimePlatform": f"Python {environment.python}, {environment.machine.system}",
        "softwareRequirements": _refs(each["@id"] for each in _applications(run)),
        "input": _refs(["#sheet", "#parameters"]),
        "output": _ref("#masks"),
    }


def _parameters(run: Run) -> list[dict[str, Any]]:
    """Return the inputs and outputs of the workflow, and the parameters that the run used."""
    parameters = run.run_environment.config.get("parameters") or {}
    return [
        _formal_parameter("#sheet", "sheet", "File", "sample sheet, one row per image"),
        _formal_parameter(
            "#parameters", "parameters", "PropertyValue", "sent to the engine with each image"
        ),
        _formal_parameter("#masks", "masks", "Dataset", "label images as OME-Zarr"),
        {
            "@id": "#parameters-as-used",
            "@type": "PropertyValue",
            "name": "parameters",
            "value": json.dumps(parameters, sort_keys=True),
            "exampleOfWork": _ref("#parameters"),
        },
    ]


def _formal_parameter(identifier: str, name: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "@id": identifier,
        "@type": "FormalParameter",
        "additionalType": kind,
        "name": name,
        "description": description,
    }


def _software(run: Run) -> list[dict[str, Any]]:
    language = (
        {"@id": "#snakemake", "name": "Snakemake", "url": "https://snakemake.github.io"}
        if run.run_environment.command == "snakemake"
        else {
            "@id": "#shell",
            "name": "POSIX shell",
            "url": "https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html",
        }
    )
    models = [
        {
            "@id": f"#model-{number}",
            "@type": "CreativeWork",
            "name": plain(f"{service.get('engine')} model {service.get('model')}"),
            "description": plain(
                f"segmentation version {version_text(service)}, device {service.get('device')}"
            ),
            **({"sha256": plain(str(digest))} if (digest := service.get("model_sha256")) else {}),
        }
        for number, service in enumerate(run.services, start=1)
    ]
    return [{"@type": "ComputerLanguage", **language}, *_applications(run), *models]


def _applications(run: Run) -> list[dict[str, Any]]:
    """Return the programs that influence masks: samcourier, Snakemake, those of the services."""
    environment = run.run_environment
    versions = {"samcourier": environment.samcourier, "python": environment.python}
    for name in ("snakemake", "numpy", "zarr", "tifffile"):
        if name in environment.packages:
            versions[name] = environment.packages[name]
    found = [
        {
            "@id": f"#software-{name}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }
        for name, version in versions.items()
    ]
    for number, service in enumerate(run.services, start=1):
        service_versions = service.get("versions")
        if isinstance(service_versions, dict):
            found += [
                {
                    "@id": f"#service-{number}-{place}",
                    "@type": "SoftwareApplication",
                    "name": plain(f"{name} of service {number}"),
                    "softwareVersion": plain(str(version)),
                }
                for place, (name, version) in enumerate(service_versions.items(), start=1)
            ]
    return found


class CrateFile(NamedTuple):
    """A file of the crate: its path relative to the crate, hexadecimal sha256, and size."""

    path: Path
    sha256: str
    size_bytes: int
