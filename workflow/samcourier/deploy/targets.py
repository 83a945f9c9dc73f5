"""Deploy or find the service of a run by its target: local, bioengine, slurm or existing.

The modules of a target are imported only when a service of that target is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import InputError
from ..files.atomic import write_private
from ..settings.run_settings import NetworkSettings, RunSettings
from ..transports.base import Endpoint
from ..transports.network import Network, make_network
from .token import read_token

if TYPE_CHECKING:
    from .bioengine.app import AppPlan
    from .bioengine.readiness import AppServices
    from .bioengine.worker import WorkerAddress
    from .slurm.supervisor import SlurmPlan

#: The record of the deployed application, so that jobs need not ask the worker.
BIOENGINE_RECORD = Path("service", "bioengine.json")


def deploy_service(settings: RunSettings, dataset_dir: Path) -> Endpoint:
    """Return the endpoint of the service, and deploy the service where it is missing.

    This is :func:`find_service`, except that it also deploys the app on a BioEngine worker or the
    service in a SLURM job. ``dataset_dir`` is the results folder of the dataset.

    Raises what :func:`samcourier.deploy.bioengine.deploy.deploy_app` and
    :func:`samcourier.deploy.slurm.service_job.deploy_job` raise too.
    """
    if settings.service.target == "slurm":
        from .slurm.service_job import deploy_job

        token = read_token(settings.service.token_file)
        timeout_s = settings.service.deploy_timeout_s
        deploy_job(dataset_dir / "service", _slurm_plan(settings), token, timeout_s)
    if settings.service.target != "bioengine":
        return find_service(settings, dataset_dir)
    import uvloop

    from .bioengine.deploy import deploy_app

    address, plan = _bioengine(settings)
    found = uvloop.run(deploy_app(address, plan, settings.service.deploy_timeout_s))
    _write_app_record(dataset_dir, address, plan, found)
    return _endpoint(settings, address, found)


def undeploy_service(settings: RunSettings, dataset_dir: Path) -> None:
    """Remove the app from the BioEngine worker, or end the SLURM job of the service.

    Raises InputError for any other target.
    """
    if settings.service.target == "slurm":
        from .slurm.service_job import undeploy_job

        undeploy_job(dataset_dir / "service")
        return
    if settings.service.target != "bioengine":
        raise InputError(
            f"service.target {settings.service.target}: nothing to undeploy, expected target"
            " bioengine or slurm"
        )
    import uvloop

    from .bioengine.deploy import undeploy_app

    address, plan = _bioengine(settings)
    uvloop.run(undeploy_app(address, plan))
    (dataset_dir / BIOENGINE_RECORD).unlink(missing_ok=True)


def find_service(settings: RunSettings, dataset_dir: Path) -> Endpoint:
    """Return the endpoint of the service, and start the local service when it does not run.

    An app on a BioEngine worker must run already: a job changes nothing there. ``dataset_dir`` is
    the results folder of the dataset.

    Raises InputError for missing settings, Denied for an unreadable token, ServiceFailed when the
    local service does not start, and ServiceGone when the worker does not run the app or the
    service of the SLURM job is not registered for ``deploy_timeout_s``.
    """
    service = settings.service
    if service.target == "local":
        from .local.start import ensure_local_service

        return ensure_local_service(
            dataset_dir / "service",
            service.engine,
            service.engine_options,
            settings.timeouts.max_stage_s,
        )
    if service.target == "bioengine":
        return _find_app(settings, dataset_dir)
    if service.target == "slurm":
        return _find_job_service(settings, dataset_dir / "service")
    missing = [name for name in ("server_url", "service_id") if not getattr(service, name)]
    if missing:
        raise InputError(
            f"service.target existing needs {', '.join(f'service.{name}' for name in missing)}"
        )
    return _named(settings, str(service.service_id))


def resolve_network(settings: NetworkSettings) -> Network:
    """Return the network settings, with the credentials of TURN servers from the environment.

    Raises InputError as :func:`samcourier.transports.network.make_network` does.
    """
    bundle = settings.ca_bundle
    servers = msgspec.to_builtins(settings.ice_servers)
    return make_network(list(servers), None if bundle is None else Path(bundle))


def _named(settings: RunSettings, service_id: str) -> Endpoint:
    service = settings.service
    return Endpoint(
        server_url=str(service.server_url),
        workspace=service.workspace,
        service_id=service_id,
        rtc_service_id=f"{service_id}-rtc",
        token=read_token(service.token_file),
        network=resolve_network(settings.network),
    )


def _slurm_plan(settings: RunSettings) -> SlurmPlan:
    """Return the plan without a service name; :func:`deploy_job` sets it."""
    from .slurm.supervisor import SlurmPlan

    service, network = settings.service, resolve_network(settings.network)
    if not service.server_url:
        raise InputError("service.target slurm needs service.server_url")
    # A TURN server on one side of a connection is enough, so the job gets no password.
    open_servers = [each for each in network.ice_servers if each.username is None]
    bundle = network.ca_bundle
    return SlurmPlan(
        service_name="",
        server_url=service.server_url,
        workspace=service.workspace,
        engine=service.engine,
        engine_options=service.engine_options,
        settings=service.slurm,
        cpus=service.cpus,
        memory_mb=service.memory_mb,
        ca_bundle=str(bundle.resolve()) if bundle else None,
        ice_urls=tuple(url for each in open_servers for url in each.urls),
        max_stage_s=settings.timeouts.max_stage_s,
    )


def _find_app(settings: RunSettings, dataset_dir: Path) -> Endpoint:
    """Return the endpoint of the app on the worker, from the run's record or from the worker."""
    import uvloop

    from .bioengine.deploy import locate

    address, plan = _bioengine(settings)
    found = _read_app_record(dataset_dir, address, plan) or uvloop.run(locate(address, plan))
    return _endpoint(settings, address, found)


def _find_job_service(settings: RunSettings, directory: Path) -> Endpoint:
    import uvloop

    from .slurm.service_job import recorded_plan, wait_until_registered

    endpoint = _named(settings, recorded_plan(directory).service_name)
    uvloop.run(wait_until_registered(endpoint, settings.service.deploy_timeout_s, directory))
    return endpoint


def _bioengine(settings: RunSettings) -> tuple[WorkerAddress, AppPlan]:
    from .bioengine.app import pack_app, plan_app
    from .bioengine.worker import WorkerAddress

    service, network = settings.service, resolve_network(settings.network)
    if not service.server_url:
        raise InputError("service.target bioengine needs service.server_url")
    address = WorkerAddress(
        server_url=service.server_url,
        workspace=service.workspace,
        worker_id=service.worker_id,
        token=read_token(service.token_file),
        ca_bundle=network.ca_bundle,
    )
    requirements = _requirements(service.engine)
    return address, plan_app(pack_app(), service, network.ice_servers, requirements)


def _requirements(engine: str) -> tuple[str, ...]:
    """Return the pip requirements of an engine, by its description.

    An engine that is unknown here may be known on the worker; if not, the worker refuses it.
    """
    from samservice.contract.engine_description import describe_engine, known_engines
    from samservice.contract.errors import WrongParameter

    if engine not in known_engines():
        return ()
    try:
        return describe_engine(engine).requirements
    except WrongParameter as error:
        raise InputError(f"service.engine: {error.message}") from error


def _endpoint(settings: RunSettings, address: WorkerAddress, found: AppServices) -> Endpoint:
    return Endpoint(
        server_url=address.server_url,
        workspace=address.workspace,
        service_id=found.service_id,
        rtc_service_id=found.rtc_service_id,
        token=address.token,
        network=resolve_network(settings.network),
    )


def _identity(address: WorkerAddress, plan: AppPlan) -> dict[str, str | None]:
    return {
        "server_url": address.server_url,
        "worker_id": address.worker_id,
        "workspace": address.workspace,
        "application_id": plan.application_id,
        "fingerprint": plan.fingerprint,
    }


def _write_app_record(
    dataset_dir: Path, address: WorkerAddress, plan: AppPlan, found: AppServices
) -> None:
    path = dataset_dir / BIOENGINE_RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(_identity(address, plan) | asdict(found), indent=1))


def _read_app_record(
    dataset_dir: Path, address: WorkerAddress, plan: AppPlan
) -> AppServices | None:
    """Return the recorded ids of the app; None for another app or an unreadable record."""
    from .bioengine.readiness import AppServices

    try:
        record = json.loads((dataset_dir / BIOENGINE_RECORD).read_text())
        is_this = all(record[name] == value for name, value in _identity(address, plan).items())
        return AppServices(record["service_id"], record["rtc_service_id"]) if is_this else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
