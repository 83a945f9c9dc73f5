"""The package for a BioEngine worker, and the parameters with which it runs there.

Pure: the same files and settings always give the same artifact and application ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import samservice

from ...errors import InputError
from ...settings.run_settings import ServiceSettings
from ...transports.network import IceServer

#: The class that the manifest's ``entry`` names; BioEngine sorts parameters by it.
APP_CLASS = "SegmentationApp"
ALIAS_PREFIX = "samservice"
FINGERPRINT_VARIABLE = "SAMSERVICE_FINGERPRINT"

_MANIFEST_NAME = "manifest.yaml"
_ENTRY_NAME = "deployment.py"
_ID_DIGITS = 12
_APPLICATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class AppPackage:
    """The files of the app for ``upload_app``; their content determines the artifact's name."""

    artifact_alias: str
    version: str
    content_sha256: str
    files: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class AppPlan:
    """The planned application: ``parameters`` are the keyword arguments of ``deploy_app``."""

    package: AppPackage
    application_id: str
    is_named_by_user: bool
    fingerprint: str
    parameters: dict[str, Any]

    @property
    def direct_name(self) -> str:
        """Return the name under which the app's own endpoints are registered."""
        return f"{self.application_id}-direct"


def app_directory() -> Path:
    """Return the folder of the manifest: beside samservice in a checkout, inside it if installed.

    Raises InputError when neither has it.
    """
    package = Path(samservice.__file__).parent
    for directory in (package.parent, package / "bioengine"):
        if (directory / _MANIFEST_NAME).is_file() and (directory / _ENTRY_NAME).is_file():
            return directory
    raise InputError(
        f"service.target bioengine: {_MANIFEST_NAME} and {_ENTRY_NAME} are missing beside"
        f" {package}, expected a complete installation of samcourier"
    )


def pack_app(directory: Path | None = None) -> AppPackage:
    """Read the app's files and derive the artifact's name from their content.

    BioEngine accepts each version of an artifact once, so a checkout with other files and the same
    version gets its own artifact. Raises InputError for a manifest that cannot be read.
    """
    import yaml

    directory = directory or app_directory()
    package = Path(samservice.__file__).parent
    contents = {_ENTRY_NAME: (directory / _ENTRY_NAME).read_text("utf-8")}
    contents |= {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_text("utf-8")
        for path in sorted(package.rglob("*.py"))
    }
    manifest = _read_manifest(directory / _MANIFEST_NAME)
    digest = hashlib.sha256(json.dumps([manifest, contents], sort_keys=True).encode()).hexdigest()
    alias = f"{ALIAS_PREFIX}-{digest[:_ID_DIGITS]}"
    named = manifest | {"id": alias, "content_sha256": digest}
    contents = {
        _MANIFEST_NAME: yaml.safe_dump(named, sort_keys=False, allow_unicode=True)
    } | contents
    return AppPackage(
        artifact_alias=alias,
        version=str(manifest["version"]),
        content_sha256=digest,
        files=tuple(
            {"name": name, "content": content, "type": "text"} for name, content in contents.items()
        ),
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    import yaml

    try:
        manifest = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}, expected YAML") from error
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise InputError(f"{path}: not a mapping with a version, expected a BioEngine manifest")
    return manifest


def plan_app(
    package: AppPackage,
    settings: ServiceSettings,
    ice_servers: Sequence[IceServer] = (),
    requirements: Sequence[str] = (),
) -> AppPlan:
    """Return the planned application for these settings.

    Everybody may read an application's parameters on the worker, so ICE servers with a password
    are left out.

    Args:
        package: The files of the app.
        settings: The config's section ``service``.
        ice_servers: The STUN and TURN servers for WebRTC.
        requirements: The pip requirements of the engine.

    Raises InputError for an ``application_id`` that BioEngine does not accept.
    """
    environment = {"SAMSERVICE_ENGINE": settings.engine, "SAMSERVICE_CPUS": f"{settings.cpus:g}"}
    for name in ("memory_mb", "gpu_memory_mb"):
        if (value := getattr(settings, name)) is not None:
            environment[f"SAMSERVICE_{name.upper()}"] = str(value)
    if requirements:
        environment["SAMSERVICE_REQUIREMENTS"] = json.dumps(list(requirements))
    keywords: dict[str, Any] = {"engine_options": settings.engine_options}
    if public := [{"urls": list(each.urls)} for each in ice_servers if each.credential is None]:
        keywords["ice_servers"] = public
    parameters: dict[str, Any] = {
        "application_kwargs": {APP_CLASS: keywords},
        "disable_gpu": settings.gpu_memory_mb is None,
        "authorized_users": {"*": sorted(set(settings.authorized_users))},
        "scaling": {APP_CLASS: {"num_replicas": settings.replicas}},
    }
    described = json.dumps([package.content_sha256, environment, parameters], sort_keys=True)
    fingerprint = hashlib.sha256(described.encode()).hexdigest()
    # The worker reports it with the status, however it changes the other values.
    environment[FINGERPRINT_VARIABLE] = fingerprint
    parameters["application_env_vars"] = {APP_CLASS: environment}
    application_id = settings.application_id or f"{ALIAS_PREFIX}-{fingerprint[:_ID_DIGITS]}"
    if not _APPLICATION_ID.fullmatch(application_id):
        raise InputError(
            f"service.application_id: {application_id!r}, expected at most 63 letters, digits,"
            " '.', '_' and '-'"
        )
    return AppPlan(
        package=package,
        application_id=application_id,
        is_named_by_user=settings.application_id is not None,
        fingerprint=fingerprint,
        parameters=parameters,
    )


def differences(status: dict[str, Any], plan: AppPlan) -> list[str]:
    """Return the config keys in which a running application differs from the plan.

    The list is empty when it is the same; ``status`` is the worker's answer for that application.
    """
    running = _environment(status)
    if running.get(FINGERPRINT_VARIABLE) == plan.fingerprint:
        return []
    wanted = plan.parameters
    environment = wanted["application_env_vars"][APP_CLASS]
    same_files = str(status.get("artifact_id", "")).endswith(f"/{plan.package.artifact_alias}")
    differs = {
        "the app's files": not same_files,
        "engine_options": status.get("application_kwargs") != wanted["application_kwargs"],
        "replicas": status.get("scaling") != wanted["scaling"],
        "authorized_users": not set(wanted["authorized_users"]["*"])
        <= set((status.get("authorized_users") or {}).get("*", [])),
    }
    for name in ("engine", "cpus", "memory_mb", "gpu_memory_mb"):
        variable = f"SAMSERVICE_{name.upper()}"
        differs[name] = running.get(variable) != environment.get(variable)
    return [name for name, differ in differs.items() if differ] or ["its parameters"]


def _environment(status: dict[str, Any]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for variables in (status.get("application_env_vars") or {}).values():
        merged |= variables
    return merged
