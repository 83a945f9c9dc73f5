"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from ..deploy.bioengine.app import AppSettings
from ..deploy.slurm.commands import SlurmSettings
from ..deploy.targets import TARGETS, ServiceOptions
from ..errors import InputError
from ..formatting import plain
from ..pipeline.names import check_engine_of_target
from ..results.layout import OUTPUTS
from ..segmentation.embedding_cache import EmbeddingStore
from ..transports.description import AUTO, TRANSPORTS, check_transport_name
from ..transports.network import make_network

R = TypeVar("R")

POSITIVE = click.FloatRange(min=0, min_open=True)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object on the command line."""

    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            self.fail(f'{value!r} is no JSON object, expected e.g. {{"sigma_px": 2}}', param, ctx)
        return parsed


class JsonList(click.ParamType[list[Any]]):
    """A JSON list on the command line."""

    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        try:
            parsed = json.loads(value, parse_constant=_refuse_constant)
        except (TypeError, ValueError):
            parsed = value
        if not isinstance(parsed, list):
            self.fail(f'{value!r} is no JSON list, expected e.g. [{{"urls": "stun:..."}}]')
        return parsed


def _with(command: Callable[..., R], *options: Callable[..., Callable[..., R]]) -> Callable[..., R]:
    """Add the options to the command, whose help shows them in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def service_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say which service to use; the command gets ``service``."""

    @wraps(command)
    def with_service(
        target: Any,
        engine: str,
        engine_options: dict[str, Any],
        server_url: str | None,
        workspace: str | None,
        service_id: str | None,
        token_file: Path | None,
        ice_servers: Any,
        ca_bundle: Path | None,
        app: AppSettings,
        slurm: SlurmSettings,
        **others: Any,
    ) -> R:
        try:
            check_engine_of_target(target, engine)
        except InputError as error:
            raise click.BadParameter(plain(str(error)), param_hint="--engine") from None
        service = ServiceOptions(
            target,
            engine,
            engine_options,
            server_url,
            workspace,
            service_id,
            token_file,
            make_network(ice_servers, ca_bundle),
            app,
            slurm,
        )
        return command(service=service, **others)

    with_options = _with(
        with_service,
        click.option("--target", type=click.Choice(TARGETS), default="local", show_default=True),
        click.option(
            "--engine", default="watershed", show_default=True, help="Not of an existing one."
        ),
        click.option("--engine-options", type=JsonObject(), default="{}", help="As --engine."),
        click.option("--server-url", help="Hypha server of the service, unless it is local."),
        click.option("--workspace", help="Hypha workspace; without it, the token's own."),
        click.option(
            "--service-id", help="Of an existing service: a name, or workspace/client:name."
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            help="File of mode 0600; without it, the variable HYPHA_TOKEN.",
        ),
    )
    return network_options(app_options(slurm_options(with_options)))


def slurm_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of a service's SLURM job; the command gets ``slurm``."""

    @wraps(command)
    def with_slurm(
        slurm_partition: str | None,
        slurm_account: str | None,
        slurm_gres: str | None,
        slurm_time_min: int | None,
        slurm_extra: tuple[str, ...],
        **others: Any,
    ) -> R:
        slurm = SlurmSettings(
            slurm_partition, slurm_account, slurm_gres, slurm_time_min, slurm_extra
        )
        return command(slurm=slurm, **others)

    return _with(
        with_slurm,
        click.option("--slurm-partition", help="Of the service's job, for target slurm."),
        click.option("--slurm-account", help="As --slurm-partition."),
        click.option("--slurm-gres", help="E.g. gpu:1."),
        click.option("--slurm-time-min", type=click.IntRange(1), help="Its time limit."),
        click.option("--slurm-extra", multiple=True, metavar="WORD", help="For sbatch, as it is."),
    )


def app_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of an app on a BioEngine worker; the command gets ``app``."""

    @wraps(command)
    def with_app(
        worker_id: str | None,
        application_id: str | None,
        cpus: float,
        memory_mb: int | None,
        gpu_memory_mb: int | None,
        replicas: int,
        authorized_users: tuple[str, ...],
        deploy_timeout_s: float,
        **others: Any,
    ) -> R:
        app = AppSettings(
            worker_id,
            application_id,
            cpus,
            memory_mb,
            gpu_memory_mb,
            replicas,
            authorized_users,
            deploy_timeout_s,
        )
        return command(app=app, **others)

    return _with(
        with_app,
        click.option("--worker-id", help="BioEngine worker: workspace/client:bioengine-worker."),
        click.option("--application-id", help="On the worker; without it, made from the settings."),
        click.option("--cpus", type=POSITIVE, default=1.0, show_default=True, help="A replica's."),
        click.option("--memory-mb", type=click.IntRange(1), help="A replica's."),
        click.option("--gpu-memory-mb", type=click.IntRange(-1), help="-1 for a whole GPU."),
        click.option("--replicas", type=click.IntRange(1), default=1, show_default=True),
        click.option(
            "--authorized-user",
            "authorized_users",
            multiple=True,
            metavar="USER",
            help="E-mail address or id, * for everyone; without it, who deploys.",
        ),
        click.option("--deploy-timeout-s", type=POSITIVE, default=1800.0, show_default=True),
    )


def network_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say how connections leave this site."""
    command = click.option(
        "--ca-bundle", type=click.Path(path_type=Path), help="PEM file of certificates to trust."
    )(command)
    return click.option(
        "--ice-servers",
        type=JsonList(),
        default="[]",
        help="STUN and TURN servers for WebRTC; credentials are named by variables.",
    )(command)


def dataset_dir_option(command: Callable[..., R]) -> Callable[..., R]:
    return click.option(
        "--dataset-dir",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="The results folder of this dataset.",
    )(command)


def _known_transport(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Return the name given. Raises BadParameter for one that no installed distribution offers."""
    try:
        check_transport_name(name)
    except InputError as error:
        raise click.BadParameter(plain(str(error)), context, parameter) from None
    return name


transport_option = click.option(
    "--transport",
    metavar=f"[{'|'.join([AUTO, *TRANSPORTS.built_in])}|NAME]",
    default=AUTO,
    show_default=True,
    callback=_known_transport,
    help="NAME is one of another package; auto is all the others.",
)


parameters_option = click.option(
    "--parameters", type=JsonObject(), default="{}", help="Of the engine."
)

ome_zarr_option = click.option(
    "--ome-zarr", type=click.Choice(("0.4", "0.5")), default="0.4", show_default=True
)

mask_container_option = click.option(
    "--mask-container",
    type=click.Choice(("folder", "zip")),
    default="folder",
    show_default=True,
    help="zip keeps each mask in one file.",
)

output_option = click.option(
    "--output",
    "outputs",
    multiple=True,
    type=click.Choice(OUTPUTS),
    help="Made of each mask beside it; several may be given.",
)


def _named_images(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the ids given; no id begins with the @ of a file."""
    named = ((each,) if not each.startswith("@") else _ids_in(Path(each[1:])) for each in given)
    return tuple(image for images in named for image in images)


def _ids_in(path: Path) -> list[str]:
    """Return the image ids on the lines of ``path``. Raises InputError when there is none."""
    problem = "names no image"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        lines, problem = [], getattr(error, "strerror", "not UTF-8")
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(
            f"--only @{path}: {problem}, expected a text file with an image id on each line"
        )
    return ids


only_option = click.option(
    "--only",
    multiple=True,
    metavar="IMAGE",
    callback=_named_images,
    help="Only this image; several may be given, @FILE for those on the lines of FILE.",
)


def embedding_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add what is done with embeddings; the command gets ``make_store``, which wants a folder."""

    @wraps(command)
    def with_embeddings(
        embeddings: str, embeddings_max_gb: float, embeddings_folder: Path | None, **others: Any
    ) -> R:
        def make_store(dataset_dir: Path) -> EmbeddingStore | None:
            if embeddings == "none":
                return None
            folder = embeddings_folder or dataset_dir / "embeddings"
            return EmbeddingStore(folder, int(embeddings_max_gb * 1e9))

        return command(make_store=make_store, **others)

    return _with(
        with_embeddings,
        click.option(
            "--embeddings",
            type=click.Choice(("none", "keep")),
            default="none",
            show_default=True,
            help="Keep them, to segment with other parameters without the encoder.",
        ),
        click.option("--embeddings-max-gb", type=POSITIVE, default=20.0, show_default=True),
        click.option(
            "--embeddings-folder",
            type=click.Path(file_okay=False, path_type=Path),
            help="Without it, embeddings in the results folder.",
        ),
    )


def segment_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of segmenting; they are those of BatchSettings and the transports."""
    with_options = _with(
        command,
        parameters_option,
        transport_option,
        ome_zarr_option,
        click.option(
            "--tile-edge-px",
            type=click.IntRange(256),
            default=2048,
            show_default=True,
            help="Side of what a tile of a large image answers for.",
        ),
        click.option(
            "--tile-halo-px",
            type=click.IntRange(16),
            default=128,
            show_default=True,
            help="Sent around it; more than the largest object.",
        ),
        click.option(
            "--tiles-above-px",
            type=click.IntRange(1),
            default=4096 * 4096,
            show_default=True,
            help="Planes of more pixels go as tiles.",
        ),
        mask_container_option,
        output_option,
        only_option,
        click.option("--retry-failed", is_flag=True, help="Also what failed by its own fault."),
        click.option("--attempt-timeout-s", type=POSITIVE, default=600.0, show_default=True),
        click.option("--image-timeout-s", type=POSITIVE, default=1800.0, show_default=True),
    )
    return embedding_options(with_options)


def example(*commands: str) -> str:
    """Return the epilog of a command's help that shows it used; click keeps its lines."""
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])
