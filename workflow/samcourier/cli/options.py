"""The options of the commands: keys of the settings, or the settings file of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from click.core import ParameterSource

from ..errors import InputError
from ..settings.frozen import FrozenRun, read_frozen
from ..settings.run_settings import RunSettings
from .setting_option import parameter_name, setting_option

R = TypeVar("R")

#: The keys that describe the service and how it is started.
SERVICE_KEYS = {
    "service.target": "--target",
    "service.engine": "--engine",
    "service.engine_options": "--engine-options",
    "service.server_url": "--server-url",
    "service.workspace": "--workspace",
    "service.service_id": "--service-id",
    "service.token_file": "--token-file",
    "service.slurm.partition": "--slurm-partition",
    "service.slurm.account": "--slurm-account",
    "service.slurm.gres": "--slurm-gres",
    "service.slurm.time_min": "--slurm-time-min",
    "service.slurm.extra": "--slurm-extra",
    "service.worker_id": "--worker-id",
    "service.application_id": "--application-id",
    "service.cpus": "--cpus",
    "service.memory_mb": "--memory-mb",
    "service.gpu_memory_mb": "--gpu-memory-mb",
    "service.replicas": "--replicas",
    "service.authorized_users": "--authorized-user",
    "service.deploy_timeout_s": "--deploy-timeout-s",
    "network.ice_servers": "--ice-servers",
    "network.ca_bundle": "--ca-bundle",
}
NETWORK_KEYS = {key: SERVICE_KEYS[key] for key in ("network.ice_servers", "network.ca_bundle")}
TRANSPORT_KEYS = {"transport": "--transport"}
EMBEDDING_KEYS = {
    "embeddings": "--embeddings",
    "embeddings_max_gb": "--embeddings-max-gb",
    "embeddings_folder": "--embeddings-folder",
}
#: The keys that a service can refuse: transport, parameters and embeddings.
DEMAND_KEYS = {**TRANSPORT_KEYS, "parameters": "--parameters", **EMBEDDING_KEYS}
#: The keys that decide how a mask and its outputs are written, not its labels.
FORM_KEYS = {
    "ome_zarr": "--ome-zarr",
    "mask_container": "--mask-container",
    "outputs": "--output",
}
SUBSET_KEYS = {"images": "--only"}
SEGMENT_KEYS = {
    **DEMAND_KEYS,
    **FORM_KEYS,
    "tiles.edge_px": "--tile-edge-px",
    "tiles.halo_px": "--tile-halo-px",
    "tiles.above_px": "--tiles-above-px",
    **SUBSET_KEYS,
    "retry_failed": "--retry-failed",
    "replace": "--replace",
    "timeouts.attempt_s": "--attempt-timeout-s",
    "timeouts.image_s": "--image-timeout-s",
}
CONNECTIONS_KEYS = {"network.connections": "--connections"}


@dataclass(frozen=True)
class RunOptions:
    """Settings, results folder and sample sheet of a run, as its commands receive them.

    ``sheet`` is None for a command that takes no sheet.
    """

    settings: RunSettings
    dataset_dir: Path
    sheet: Path | None


def settings_options(
    keys: Mapping[str, str], **defaults: Any
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Add an option for each of ``keys``; the command receives ``settings``.

    ``keys`` maps a key of the settings, e.g. ``tiles.edge_px``, to its option. ``defaults`` replace
    the defaults of the settings for this command. The settings have an empty ``dataset``, since the
    results folder gives it its name.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def with_settings(**given: Any) -> R:
            values = {key: given.pop(parameter_name(key)) for key in keys}
            return command(settings=make_settings(values), **given)

        return _with_options(with_settings, keys, defaults)

    return decorate


def run_options(
    keys: Mapping[str, str],
    *,
    takes_sheet: bool = True,
    batch_size: int | None = None,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Add the options of a run's command; the command receives ``run``, a :class:`RunOptions`.

    The command takes ``--settings FILE``, the file that a run wrote when it began. Without that
    file it takes the sheet, ``--dataset-dir`` and an option for each of ``keys``. ``batch_size`` is
    the default of ``--batch-size``; without a default that option is required.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def with_run(settings_file: Path | None, dataset_dir: Path | None, **given: Any) -> R:
            context = click.get_current_context()
            own = {key: given.pop(parameter_name(key)) for key in keys}
            sheet = given.pop("sheet", None)
            size = given.pop("batch_size", None)
            if settings_file is not None:
                _refuse_options_beside_settings(context, keys)
                frozen = read_frozen(settings_file)
                return command(run=_of_frozen(frozen, takes_sheet), **given)
            if dataset_dir is None:
                raise click.MissingParameter(
                    ctx=context, param_hint="'--dataset-dir'", param_type="option"
                )
            if takes_sheet and sheet is None:
                raise click.MissingParameter(
                    ctx=context, param_hint="'SHEET'", param_type="argument"
                )
            if size is not None:
                own["batch_size"] = size
            elif takes_sheet:
                raise click.MissingParameter(
                    ctx=context, param_hint="'--batch-size'", param_type="option"
                )
            own["sheet"] = None if sheet is None else str(sheet)
            settings = make_settings(own, dataset_dir)
            return command(run=RunOptions(settings, dataset_dir, sheet), **given)

        decorated = _dataset_dir_option(_with_options(with_run, keys))
        if takes_sheet:
            decorated = click.option(
                "--batch-size",
                type=click.IntRange(1),
                default=batch_size,
                show_default=batch_size is not None,
                help="Number of images that one job segments over one connection.",
            )(decorated)
        decorated = click.option(
            "--settings",
            "settings_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="The settings file that a run wrote when it began. It replaces the options that"
            " describe the run.",
        )(decorated)
        if takes_sheet:
            decorated = click.argument(
                "sheet", required=False, type=click.Path(dir_okay=False, path_type=Path)
            )(decorated)
        return decorated

    return decorate


def _with_options(
    command: Callable[..., R], keys: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> Callable[..., R]:
    """Add the option of each key; the help shows them in this order."""
    for key, flag in reversed(list(keys.items())):
        command = setting_option(key, flag, (defaults or {}).get(key))(command)
    return command


def make_settings(values: Mapping[str, Any], dataset_dir: Path | None = None) -> RunSettings:
    """Return the settings with ``values`` by key; every other key has its default.

    Raises InputError for unusable ICE servers or certificates, and for an engine or a transport
    that no installed package provides.
    """
    from ..pipeline.engine_settings import with_typed_values
    from ..pipeline.names import check_names
    from ..transports.network import make_network

    nested: dict[str, Any] = {"dataset": "" if dataset_dir is None else dataset_dir.resolve().name}
    for key, value in values.items():
        *folders, name = key.split(".")
        part = nested
        for folder in folders:
            part = part.setdefault(folder, {})
        part[name] = str(value) if isinstance(value, Path) else value
    if not nested.get("images", True):
        nested["images"] = None
    network = nested.get("network", {})
    bundle = network.get("ca_bundle")
    make_network(network.get("ice_servers", []), None if bundle is None else Path(bundle))
    try:
        settings = msgspec.convert(nested, RunSettings)
    except msgspec.ValidationError as refused:
        raise InputError(_refusal(nested, refused)) from None
    check_names(settings)
    return with_typed_values(settings)


def example(*commands: str) -> str:
    """Return the epilog of a command's help with example ``commands``; click keeps its lines."""
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])


def _refusal(values: dict[str, Any], error: msgspec.ValidationError) -> str:
    """Return the refused option as one line, in the words of the config."""
    from ..pipeline.config import find_problem

    # Rules for the name of a dataset and for the sheet hold for a config only.
    problem = find_problem(values | {"dataset": "cells", "sheet": "images.tsv"})
    return str(error) if problem is None else problem.removeprefix("config.")


def dataset_dir_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add the required option ``--dataset-dir``."""
    return _dataset_dir_option(command, required=True)


def _dataset_dir_option(command: Callable[..., R], *, required: bool = False) -> Callable[..., R]:
    return click.option(
        "--dataset-dir",
        type=click.Path(file_okay=False, path_type=Path),
        required=required,
        help="The results folder of this dataset.",
    )(command)


def _of_frozen(frozen: FrozenRun, takes_sheet: bool) -> RunOptions:
    return RunOptions(frozen.settings, frozen.dataset_dir, frozen.sheet if takes_sheet else None)


def _refuse_options_beside_settings(context: click.Context, keys: Mapping[str, str]) -> None:
    flags = {parameter_name(key): flag for key, flag in keys.items()}
    flags |= {"dataset_dir": "--dataset-dir", "batch_size": "--batch-size", "sheet": "SHEET"}
    for name, flag in flags.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{flag} cannot be given with --settings, which already sets it", context
            )
