"""Where the service is, by target: started when needed, here, on a worker or in a cluster's job,
or somebody else's."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import uvloop

from samservice.contract.engine_description import describe_engine, find_engine, known_engines
from samservice.contract.errors import WrongParameter
from samservice.contract.plugins import OWN_DISTRIBUTION

from ..errors import InputError
from ..files.atomic import write_private
from ..transports.base import Endpoint
from ..transports.network import Network
from .bioengine.app import AppPlan, AppSettings, pack_app, plan_app
from .bioengine.deploy import bring_up, locate, take_down
from .bioengine.readiness import Found, Say
from .bioengine.worker import WorkerAddress
from .local.start import ensure_local_service
from .slurm.commands import SlurmSettings
from .slurm.service_job import bring_up as bring_up_job
from .slurm.service_job import recorded_plan, wait_until_registered
from .slurm.service_job import take_down as take_down_job
from .slurm.supervisor import SlurmPlan
from .token import read_token

Target = Literal["local", "bioengine", "slurm", "existing"]
TARGETS: tuple[Target, ...] = ("local", "bioengine", "slurm", "existing")

#: Beside the endpoint of the run: which application was brought up, so that no job asks again.
BIOENGINE_RECORD = Path("service", "bioengine.json")


@dataclass(frozen=True)
class ServiceOptions:
    """Which service to use, as the command line and the config say it."""

    target: Target = "local"
    engine: str = "watershed"
    engine_options: dict[str, Any] = field(default_factory=dict)
    server_url: str | None = None
    workspace: str | None = None
    service_id: str | None = None
    token_file: Path | None = None
    network: Network = field(default_factory=Network)
    app: AppSettings = field(default_factory=AppSettings)
    slurm: SlurmSettings = field(default_factory=SlurmSettings)


def deploy_service(options: ServiceOptions, dataset_dir: Path, say: Say) -> Endpoint:
    """As :func:`find_service`, but bring the app up on a BioEngine worker, or the service up in a
    SLURM job, where it is missing.

    Raises what :func:`samcourier.deploy.bioengine.deploy.bring_up` and
    :func:`samcourier.deploy.slurm.service_job.bring_up` raise too.
    """
    if options.target == "slurm":
        token = read_token(options.token_file)
        timeout_s = options.app.deploy_timeout_s
        bring_up_job(dataset_dir / "service", _slurm_plan(options), token, timeout_s, say)
    if options.target != "bioengine":
        return find_service(options, dataset_dir)
    address, plan = _bioengine(options)
    found = uvloop.run(bring_up(address, plan, options.app.deploy_timeout_s, say))
    _write_found(dataset_dir, address, plan, found)
    return _endpoint(options, address, found)


def undeploy_service(options: ServiceOptions, dataset_dir: Path, say: Say) -> None:
    """Take the app away from the BioEngine worker, or end the service's SLURM job.

    Raises InputError for any other target.
    """
    if options.target == "slurm":
        take_down_job(dataset_dir / "service", say)
        return
    if options.target != "bioengine":
        raise InputError(
            f"service.target {options.target}: nothing to undeploy, expected target bioengine"
            " or slurm"
        )
    address, plan = _bioengine(options)
    uvloop.run(take_down(address, plan, say))
    (dataset_dir / BIOENGINE_RECORD).unlink(missing_ok=True)


def find_service(options: ServiceOptions, dataset_dir: Path) -> Endpoint:
    """Return the endpoint of the service, starting the local one when it does not run.

    On a BioEngine worker it must run already: a job changes nothing there. Raises InputError for
    missing settings, Denied for an unreadable token, ServiceFailed when the local service does
    not come up, ServiceGone when the worker does not have the app, or the SLURM job's service is
    not there for ``deploy_timeout_s``.
    """
    if options.target == "local":
        return ensure_local_service(dataset_dir / "service", options.engine, options.engine_options)
    if options.target == "bioengine":
        address, plan = _bioengine(options)
        found = _read_found(dataset_dir, address, plan) or uvloop.run(locate(address, plan))
        return _endpoint(options, address, found)
    if options.target == "slurm":
        return _find_job_service(options, dataset_dir / "service")
    missing = [name for name in ("server_url", "service_id") if not getattr(options, name)]
    if missing:
        raise InputError(
            f"service.target existing needs {', '.join(f'service.{name}' for name in missing)}"
        )
    return _named(options, str(options.service_id))


def _named(options: ServiceOptions, service_id: str) -> Endpoint:
    return Endpoint(
        server_url=str(options.server_url),
        workspace=options.workspace,
        service_id=service_id,
        rtc_service_id=f"{service_id}-rtc",
        token=read_token(options.token_file),
        network=options.network,
    )


def _slurm_plan(options: ServiceOptions) -> SlurmPlan:
    """Return the plan without a name, which the one that is brought up gets."""
    if not options.server_url:
        raise InputError("service.target slurm needs service.server_url")
    # One side of a connection with a TURN server is enough: no password goes into the job.
    open_servers = [each for each in options.network.ice_servers if each.username is None]
    bundle = options.network.ca_bundle
    return SlurmPlan(
        service_name="",
        server_url=options.server_url,
        workspace=options.workspace,
        engine=options.engine,
        engine_options=options.engine_options,
        settings=options.slurm,
        cpus=options.app.cpus,
        memory_mb=options.app.memory_mb,
        ca_bundle=str(bundle.resolve()) if bundle else None,
        ice_urls=tuple(url for each in open_servers for url in each.urls),
    )


def _find_job_service(options: ServiceOptions, directory: Path) -> Endpoint:
    endpoint = _named(options, recorded_plan(directory).service_name)
    uvloop.run(wait_until_registered(endpoint, options.app.deploy_timeout_s, directory))
    return endpoint


def _bioengine(options: ServiceOptions) -> tuple[WorkerAddress, AppPlan]:
    if not options.server_url:
        raise InputError("service.target bioengine needs service.server_url")
    address = WorkerAddress(
        server_url=options.server_url,
        workspace=options.workspace,
        worker_id=options.app.worker_id,
        token=read_token(options.token_file),
        ca_bundle=options.network.ca_bundle,
    )
    plan = plan_app(
        pack_app(),
        options.app,
        options.engine,
        options.engine_options,
        options.network.ice_servers,
        _requirements(options.engine),
    )
    return address, plan


def _requirements(engine: str) -> tuple[str, ...]:
    """Return pip's lines for an engine of another distribution; the app has the built-in ones'.

    An engine that is unknown here may be known on the worker, which refuses it otherwise.
    """
    if engine not in known_engines():
        return ()
    try:
        is_built_in = find_engine(engine).distribution == OWN_DISTRIBUTION
        return () if is_built_in else describe_engine(engine).requirements
    except WrongParameter as error:
        raise InputError(f"service.engine: {error.message}") from error


def _endpoint(options: ServiceOptions, address: WorkerAddress, found: Found) -> Endpoint:
    return Endpoint(
        server_url=address.server_url,
        workspace=address.workspace,
        service_id=found.service_id,
        rtc_service_id=found.rtc_service_id,
        token=address.token,
        network=options.network,
    )


def _identity(address: WorkerAddress, plan: AppPlan) -> dict[str, str | None]:
    return {
        "server_url": address.server_url,
        "worker_id": address.worker_id,
        "workspace": address.workspace,
        "application_id": plan.application_id,
        "fingerprint": plan.fingerprint,
    }


def _write_found(dataset_dir: Path, address: WorkerAddress, plan: AppPlan, found: Found) -> None:
    path = dataset_dir / BIOENGINE_RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(_identity(address, plan) | asdict(found), indent=1))


def _read_found(dataset_dir: Path, address: WorkerAddress, plan: AppPlan) -> Found | None:
    """Return what the run's deploy found, None when that was another app or is not readable."""
    try:
        record = json.loads((dataset_dir / BIOENGINE_RECORD).read_text())
        is_this = all(record[name] == value for name, value in _identity(address, plan).items())
        return Found(record["service_id"], record["rtc_service_id"]) if is_this else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
