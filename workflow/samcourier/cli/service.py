"""The commands about a service: deploy, undeploy, verify, bench and serve."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click

from samservice.contract.engine_description import DEFAULT_ENGINE
from samservice.hypha.network import without_proxy_for_loopback

from ..deploy.targets import (
    deploy_service,
    find_service,
    resolve_network,
    undeploy_service,
)
from ..errors import ServiceGone
from ..files.strict_json import write_json
from ..formatting import plain
from ..segmentation.embedding_cache import forecast_embeddings
from ..settings.run_settings import RunSettings
from ..transports.base import Endpoint
from .options import (
    DEMAND_KEYS,
    NETWORK_KEYS,
    SERVICE_KEYS,
    TRANSPORT_KEYS,
    RunOptions,
    example,
    run_options,
    settings_options,
)
from .setting_option import POSITIVE
from .terminal import run_interruptibly

logger = logging.getLogger("samcourier.cli")


@click.command(epilog=example("samcourier deploy --dataset-dir results/plate7 --out endpoint.json"))
@run_options(SERVICE_KEYS, takes_sheet=False)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="JSON file for the service's address.",
)
def deploy(run: RunOptions, out: Path) -> None:
    """Start the service unless --target is existing, and write its address to --out."""
    endpoint = deploy_service(run.settings, run.dataset_dir)
    write_json(
        out,
        {
            "server_url": endpoint.server_url,
            "workspace": endpoint.workspace,
            "service_id": endpoint.service_id,
        },
    )


@click.command(
    epilog=example(
        "samcourier undeploy --target bioengine --server-url https://hypha.aicell.io \\",
        "    --token-file ~/.hypha-token --dataset-dir results/plate7",
    )
)
@run_options(SERVICE_KEYS, takes_sheet=False)
def undeploy(run: RunOptions) -> None:
    """Stop the service on its BioEngine worker or SLURM job, even while it is in use.

    Stopping a service that does not run is not an error.
    """
    undeploy_service(run.settings, run.dataset_dir)


@click.command(
    epilog=example(
        "samcourier verify --target existing --server-url https://hypha.aicell.io \\",
        "    --service-id samservice --token-file ~/.hypha-token \\",
        "    --dataset-dir results/plate7 --out verdict.json",
    )
)
@run_options({**SERVICE_KEYS, **DEMAND_KEYS}, takes_sheet=False)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="JSON file for the result.",
)
def verify(run: RunOptions, out: Path) -> None:
    """Test each transport with a large payload in both directions and write the result to --out.

    The exit status is 1 if no transport works, if the service refuses the parameters, or if it
    has no embeddings to keep.
    """
    from ..diagnostics.verify import check_engine_described, verify_service, working_transports
    from ..pipeline.run import embedding_store
    from ..results.service_description import ServiceDescription
    from ..segmentation.requirements import check_requirements
    from ..transports import build_transports

    settings = run.settings
    endpoint = find_service(settings, run.dataset_dir)
    replica = _pick_replica(endpoint, settings.transport)
    transports = build_transports(replica, settings.transport)
    verdict = run_interruptibly(verify_service(endpoint, transports))
    write_json(out, verdict)
    for name, result in verdict["transports"].items():
        level = logging.INFO if result["works"] else logging.WARNING
        line = plain(_verdict_line(result))
        logger.log(level, "%-10s %s", name, line, extra={"transport": name})
    failed = [result for result in verdict["transports"].values() if not result["works"]]
    known = {each["defect"]: each["advice"] for each in failed if each["defect"] != "other"}
    for defect, advice in known.items():
        logger.warning("%s: %s", defect, advice, extra={"defect": defect})
    if not working_transports(verdict):
        raise ServiceGone("no transport reaches the service; the lines above give the reasons")
    embeddings = embedding_store(settings, run.dataset_dir)
    description = ServiceDescription.of(verdict["description"])
    if settings.service.target == "bioengine":
        check_engine_described(settings.service.engine, description)
    check_requirements(settings.parameters, description, keeps_embeddings=embeddings is not None)
    if embeddings is not None:
        click.echo(forecast_embeddings(embeddings, description), err=True)


def _pick_replica(endpoint: Endpoint, transport: str) -> Endpoint:
    """Return the endpoint of one replica; log its id if there are several."""
    from ..transports import pick_replica

    replica, replica_count = run_interruptibly(pick_replica(endpoint, transport))
    if replica_count > 1:
        logger.info(
            "%d replicas of %s; this command tests %s",
            *(replica_count, endpoint.service_id, replica.service_id),
            extra={"service": replica.service_id},
        )
    return replica


def _verdict_line(result: dict[str, Any]) -> str:
    if not result["works"]:
        defect = "" if result["defect"] == "other" else f" ({result['defect']})"
        return f"does not work{defect}: {result['failure']['message']}"
    large = result["large"]
    if large["send_s"] is None:
        return "works, 4 MiB up; the service has no probe to measure speed with"
    return f"works, {large['send_s']:.2f} s up, {large['receive_s']:.2f} s down for 4 MiB"


@click.command(epilog=example("samcourier bench --dataset-dir results/plate7 --out build/speed"))
@run_options({**SERVICE_KEYS, **TRANSPORT_KEYS}, takes_sheet=False)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of measurements of each transport and payload.",
)
@click.option(
    "--max-mib",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Size of the largest payload, in MiB.",
)
@click.option(
    "--call-limit-s",
    type=POSITIVE,
    default=30.0,
    show_default=True,
    help="Longest duration of one call, in seconds.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the table and the plot.",
)
def bench(
    run: RunOptions,
    runs: int,
    max_mib: int,
    call_limit_s: float,
    out: Path,
) -> None:
    """Compare the transports with the naive client by payload size; write table and plot to --out.

    The exit status is 1 if no transport works.
    """
    from rich.console import Console

    from ..benchmark.compare import SpeedSettings, compare_transports, write_comparison
    from ..benchmark.naive import NaiveTransport
    from ..benchmark.plot import plot_table
    from ..benchmark.table import print_table
    from ..transports import build_transports

    # The naive client, hypha-rpc with its defaults, reads proxies only from the environment.
    os.environ.update(without_proxy_for_loopback(os.environ))
    # A folder that cannot be written must fail before the measurement, which takes minutes.
    out.mkdir(parents=True, exist_ok=True)
    transport = run.settings.transport
    endpoint = _pick_replica(find_service(run.settings, run.dataset_dir), transport)
    transports = [*build_transports(endpoint, transport), NaiveTransport(endpoint)]
    speed = SpeedSettings(runs, max_mib << 20, call_limit_s)
    compared = run_interruptibly(compare_transports(transports, speed))
    write_comparison(out, compared, endpoint, speed)
    print_table(compared.rows, Console())
    for note in compared.notes:
        click.echo(plain(note))
    if not compared.has_measurements:
        raise ServiceGone("no transport reaches the service; the lines above give the reasons")
    try:
        plot_table(compared.rows, out)
    except ImportError:
        logger.warning(
            "no plot was made: matplotlib is missing; pip install 'samcourier[plot]' installs it"
        )
    logger.info("table and plot: %s", out)


@click.command(
    epilog=example(
        f"samcourier serve --engine {DEFAULT_ENGINE} --server-url https://hypha.aicell.io \\",
        "    --token-file ~/.hypha-token",
    )
)
@settings_options(
    {
        "service.engine": "--engine",
        "service.engine_options": "--engine-options",
        **NETWORK_KEYS,
    }
)
@click.option("--server-url", required=True, help="URL of the Hypha server.")
@click.option("--workspace", help="Hypha workspace of the service. Without it, the token's.")
@click.option(
    "--service-id", default="samservice", show_default=True, help="Hypha id of the service."
)
@click.option(
    "--visibility",
    type=click.Choice(("protected", "public")),
    default="protected",
    show_default=True,
    help="Who may call: users with a token for the workspace (protected), or everyone (public).",
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the Hypha token.")
@click.option(
    "--authorized-user",
    "authorized_users",
    multiple=True,
    help="E-mail address or id of a user who may call; may be repeated. Without it, every user"
    " whom --visibility admits.",
)
@click.option(
    "--idle-limit-s",
    type=POSITIVE,
    help="Stop the service after so many seconds without images or a renewed --owner-file.",
)
@click.option(
    "--owner-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A process that still needs the service, even without images, renews the modification"
    " time of this file.",
)
@click.option(
    "--max-stage-s",
    type=POSITIVE,
    help="Seconds after which a stage of an image counts as hanging: the image fails, and the"
    " service starts anew. Without it, 480; keep it below timeouts.attempt_s of the runs.",
)
def serve(
    settings: RunSettings,
    server_url: str,
    workspace: str | None,
    service_id: str,
    visibility: str,
    token_file: Path | None,
    authorized_users: tuple[str, ...],
    idle_limit_s: float | None,
    owner_file: Path | None,
    max_stage_s: float | None,
) -> None:
    """Serve an engine through a Hypha server until you interrupt it.

    Images that the engine works on end first, for at most 20 s. When the engine hangs with an
    image, that image fails and the service starts anew by itself.
    """
    import uvloop

    from samservice.contract.errors import ServiceError
    from samservice.engines.base import build_engine
    from samservice.server.app import Limits
    from samservice.server.restart import replace_process, take_handover
    from samservice.server.serve import Address, ServeSettings, serve_until_interrupted

    from ..deploy.token import read_token

    async def announce(address: Address, _server: Any) -> None:
        fields = {"service": address.service_id}
        logger.info("ready: %s on %s", address.service_id, address.server_url, extra=fields)

    network = resolve_network(settings.network)
    handover = take_handover()
    limits = Limits() if max_stage_s is None else Limits(max_stage_s=max_stage_s)
    serving = ServeSettings(
        server_url,
        read_token(token_file),
        workspace,
        service_id,
        visibility,
        [server.as_dict() for server in network.ice_servers],
        network.ca_bundle,
        client_id=handover.client_id,
        goes_on=handover.client_id is not None,
        ends_when_frozen=True,
        limits=handover.limits(limits),
        authorized_users=authorized_users,
        idle_limit_s=idle_limit_s,
        owner_file=owner_file,
    )
    try:
        loaded = build_engine(settings.service.engine, settings.service.engine_options)
        ending = uvloop.run(serve_until_interrupted(loaded, serving, on_ready=announce))
        if ending is not None:
            replace_process(handover.after(ending))
    except ServiceError as error:
        raise click.ClickException(plain(error.message)) from error
