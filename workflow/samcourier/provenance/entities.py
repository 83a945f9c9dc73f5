"""A run in the words of Workflow Run RO-Crate 0.5: ``@graph`` from plain values, pure.

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
from typing import TYPE_CHECKING, Any, NamedTuple

from ..formatting import plain
from ..results.environment import RECORD, SCRIPT, SHEET, SNAKEFILE, RunEnvironment
from ..results.timestamps import parse_time

if TYPE_CHECKING:
    pass

RO_CRATE = "https://w3id.org/ro/crate/1.1"
#: ``sha256`` is no term of RO-Crate 1.1; Workflow Run Crate's own vocabulary has it.
CONTEXT = [f"{RO_CRATE}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
#: Nobody is asked for one, and none may be made up.
LICENSE = "none stated: ask whom the images belong to"

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
_SAID = {
    "provenance/config.yaml": "the run's config with every default, for snakemake --configfile",
    "provenance/images.tsv": "the sample sheet: each image and what of it was segmented",
    "provenance/masks.tsv": (
        "one row an image: what became of it, sha256 of the pixels sent and of the labels that"
        " came back, and the key over pixels, parameters and model"
    ),
    "provenance/run.json": "software, machine, checkout and settings that the run began with",
    "provenance/segment.sh": "the command that made the masks",
    "provenance/services.json": "engine, model, versions and device of each service that answered",
    "report.html": "the report of the run",
    "report.tsv": "the report as a table: transports, times and objects of each image",
}
_SAID_OF_FOLDERS = {
    "masks": "the label images, one OME-Zarr an image, named by the image's id",
    "logs": "one log an image: every call, how its pixels travelled, why it failed",
    "batches": "one manifest a batch: the state of each of its images",
}


@dataclass(frozen=True)
class Run:
    """What is told of a run. ``services`` are those whose labels it has (SERVICE_IDENTITY)."""

    dataset: str
    run_environment: RunEnvironment
    ended: datetime
    image_count: int
    without_mask: Sequence[str]
    services: Sequence[dict[str, Any]]

    @property
    def action_id(self) -> str:
        """The same whenever the crate of the same run is written."""
        name = f"{self.dataset} {self.run_environment.started_at}"
        return f"#{uuid.uuid5(uuid.NAMESPACE_OID, name)}"


def describe(run: Run, files: Sequence[CrateFile], folders: Sequence[str]) -> dict[str, Any]:
    """Return the crate's metadata, JSON-LD in one ``@graph``."""
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
            " images, and all that is needed to make the same masks again (samcourier rerun)."
        ),
        "datePublished": run.ended.isoformat(timespec="seconds"),
        "license": LICENSE,
        "conformsTo": _refs(PROFILES),
        "hasPart": _refs(part["@id"] for part in parts),
        "mainEntity": _ref(_workflow_id(run)),
        "mentions": _ref(run.action_id),
    }


def _action(run: Run, present: set[str]) -> dict[str, Any]:
    begun = run.run_environment
    count = len(run.without_mask)
    results = [
        each for each in ("masks/", "provenance/masks.tsv", "report.html") if each in present
    ]
    machine = begun.machine
    outcome: dict[str, Any] = {"actionStatus": "http://schema.org/CompletedActionStatus"}
    if count:
        outcome = {
            "actionStatus": "http://schema.org/FailedActionStatus",
            "error": f"{count} of {run.image_count} images have no mask",
        }
    return {
        "@id": run.action_id,
        "@type": "CreateAction",
        "name": f"Segmentation of {run.dataset} by samcourier {begun.samcourier}",
        "description": (
            f"{begun.command} on {machine.system}, {machine.architecture}, {machine.cores} cores;"
            " masks kept from earlier runs have their own time in provenance/masks.tsv"
        ),
        "startTime": _seconds(begun.started_at),
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
        "description": _SAID.get(name, "a part of the workflow as it was"),
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
        "description": _SAID_OF_FOLDERS[name],
    }
    if name == "masks":
        entity["exampleOfWork"] = _ref("#masks")
    return entity


def _main_workflow(run: Run) -> dict[str, Any]:
    begun = run.run_environment
    is_snakemake = begun.command == "snakemake"
    commit = begun.workflow.commit
    changed = " and changes that are not committed" if begun.workflow.is_dirty else ""
    return {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "samcourier",
        "description": "segments each image of a sample sheet with a remote service"
        + (f"; commit {commit}{changed}" if commit else ""),
        "version": begun.samcourier + (f"+{commit[:12]}" if commit else ""),
        "programmingLanguage": _ref("#snakemake" if is_snakemake else "#shell"),
        "runtimePlatform": f"Python {begun.python}, {begun.machine.system}",
        "softwareRequirements": _refs(each["@id"] for each in _applications(run)),
        "input": _refs(["#sheet", "#parameters"]),
        "output": _ref("#masks"),
    }


def _parameters(run: Run) -> list[dict[str, Any]]:
    """Return the slots of the workflow, and the value that is no file."""
    parameters = run.run_environment.config.get("parameters") or {}
    return [
        _slot("#sheet", "sheet", "File", "sample sheet, one row an image"),
        _slot("#parameters", "parameters", "PropertyValue", "given to the engine with each image"),
        _slot("#masks", "masks", "Dataset", "label images as OME-Zarr"),
        {
            "@id": "#parameters-as-used",
            "@type": "PropertyValue",
            "name": "parameters",
            "value": json.dumps(parameters, sort_keys=True),
            "exampleOfWork": _ref("#parameters"),
        },
    ]


def _slot(identifier: str, name: str, kind: str, said: str) -> dict[str, Any]:
    return {
        "@id": identifier,
        "@type": "FormalParameter",
        "additionalType": kind,
        "name": name,
        "description": said,
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
                f"segmentation version {service.get('segmentation_version')},"
                f" device {service.get('device')}"
            ),
            **({"sha256": plain(str(digest))} if (digest := service.get("model_sha256")) else {}),
        }
        for number, service in enumerate(run.services, start=1)
    ]
    return [{"@type": "ComputerLanguage", **language}, *_applications(run), *models]


def _applications(run: Run) -> list[dict[str, Any]]:
    """Return the programs that shape a mask: ours, Snakemake, and what the services run on."""
    begun = run.run_environment
    versions = {"samcourier": begun.samcourier, "python": begun.python}
    for name in ("snakemake", "numpy", "zarr", "tifffile"):
        if name in begun.packages:
            versions[name] = begun.packages[name]
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
        of_service = service.get("versions")
        if isinstance(of_service, dict):
            found += [
                {
                    "@id": f"#service-{number}-{place}",
                    "@type": "SoftwareApplication",
                    "name": plain(f"{name} of service {number}"),
                    "softwareVersion": plain(str(version)),
                }
                for place, (name, version) in enumerate(of_service.items(), start=1)
            ]
    return found


class CrateFile(NamedTuple):
    """A file of the crate: its path in it, hexadecimal sha256 and size."""

    path: Path
    sha256: str
    size_bytes: int
