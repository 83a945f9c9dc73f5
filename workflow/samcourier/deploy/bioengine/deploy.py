"""Deploy the app on a BioEngine worker, find it there, and remove it.

The running application is compared with the plan first, so that a second deployment changes
nothing. An application of others under the same id is never replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ...errors import Denied, RequestRefused, ServiceFailed, ServiceGone
from .app import ALIAS_PREFIX, AppPlan, differences
from .readiness import (
    FAILED,
    GONE,
    AppServices,
    PollingIntervals,
    find_direct_services,
    proxy_services,
    wait_for_answer,
    wait_until_running,
)
from .worker import (
    ANSWER_TIMEOUT_S,
    BUILD_TIMEOUT_S,
    Worker,
    WorkerAddress,
    connected_worker,
    list_ids,
)

logger = logging.getLogger("samcourier.deploy")


async def deploy_app(
    address: WorkerAddress, plan: AppPlan, timeout_s: float, polling: PollingIntervals | None = None
) -> AppServices:
    """Upload and deploy the app if needed, wait until it answers, and return its service ids.

    Args:
        address: The worker, and the token of one of its administrators.
        plan: The planned application.
        timeout_s: The seconds within which the app must answer.
        polling: The polling intervals; the defaults if None.

    Raises Denied; RequestRefused when an application with other settings has this id;
    ServiceFailed with the worker's reason; ServiceGone when the worker or the app disappears.
    """
    if address.token is None:
        raise Denied(
            "service.target bioengine needs a token of one of the worker's administrators:"
            " set HYPHA_TOKEN or service.token_file"
        )
    polling = polling or PollingIntervals()
    deadline = time.monotonic() + timeout_s
    async with connected_worker(address, polling.poll_s) as worker:
        logger.info("worker %s", worker.worker_id, extra={"worker": worker.worker_id})
        if await _must_deploy(worker, plan, polling):
            await _deploy(worker, plan, address.token)
        status = await wait_until_running(worker, plan, deadline, polling)
        return await wait_for_answer(worker, plan, status, deadline, polling)


async def locate(address: WorkerAddress, plan: AppPlan) -> AppServices:
    """Return the service ids of the planned app; raise ServiceGone when it does not run."""
    async with connected_worker(address) as worker:
        status = await worker.status_of(plan.application_id)
        if status["status"] != "RUNNING" or differences(status, plan):
            raise ServiceGone(
                f"application {plan.application_id} is {_state(status, plan)} on worker"
                f" {worker.worker_id}; run samcourier deploy to start it"
            )
        return await find_direct_services(worker, plan) or proxy_services(
            status, "it is not registered"
        )


async def undeploy_app(
    address: WorkerAddress, plan: AppPlan, polling: PollingIntervals | None = None
) -> None:
    """Stop the application and delete its artifact unless another application needs it.

    A missing application or artifact is no error. Raises Denied or ServiceFailed when the worker
    refuses.
    """
    polling = polling or PollingIntervals()
    async with connected_worker(address, polling.poll_s) as worker:
        status = await worker.status_of(plan.application_id)
        if status["status"] == GONE:
            _log(plan, f"does not run on worker {worker.worker_id}")
        else:
            await _stop(worker, plan.application_id, polling)
            _log(plan, "is stopped")
        artifact_id = status.get("artifact_id") or _artifact_id(worker, plan)
        others = await worker.ask("get_app_status", "what else runs", ANSWER_TIMEOUT_S, logs_tail=0)
        is_needed = any(each.get("artifact_id") == artifact_id for each in others.values())
        is_ours = artifact_id.rpartition("/")[2].startswith(f"{ALIAS_PREFIX}-")
        if is_ours and not is_needed and artifact_id in await _artifacts(worker):
            await worker.ask(
                "delete_app",
                f"to delete the artifact {artifact_id}",
                ANSWER_TIMEOUT_S,
                artifact_id=artifact_id,
            )
            logger.info("artifact %s is deleted", artifact_id, extra={"artifact": artifact_id})


def _log(plan: AppPlan, predicate: str) -> None:
    """Log a sentence whose subject is the planned application."""
    fields = {"application": plan.application_id}
    logger.info("application %s %s", plan.application_id, predicate, extra=fields)


def _state(status: dict[str, Any], plan: AppPlan) -> str:
    state = str(status["status"])
    if state == "RUNNING":
        return f"running with other settings ({', '.join(differences(status, plan))})"
    return f"not running ({state})"


async def _must_deploy(worker: Worker, plan: AppPlan, polling: PollingIntervals) -> bool:
    """Compare the running application with the plan; remove it only if it has failed."""
    status = await worker.status_of(plan.application_id)
    state = status["status"]
    if state == "DELETING":
        _log(plan, "is being removed; waiting until it is removed")
        await _wait_until_gone(worker, plan.application_id, polling)
        return True
    if state == GONE:
        return True
    differs = differences(status, plan)
    if differs and state != "DEPLOY_FAILED":
        raise RequestRefused(
            f"application {plan.application_id} on worker {worker.worker_id} runs with other"
            f" settings ({', '.join(differs)}) and may be in use. Omit service.application_id to"
            " run a second application, or remove this one with samcourier undeploy",
            name="ApplicationInUse",
        )
    if state not in FAILED:
        _log(plan, f"exists already, state {state}")
        return False
    _log(plan, f"has failed ({state}) and is deployed again")
    # Otherwise the worker would report the old failure until the new one has started.
    await _stop(worker, plan.application_id, polling)
    return True


async def _deploy(worker: Worker, plan: AppPlan, token: str) -> None:
    if not await worker.ask("check_access", "for access", ANSWER_TIMEOUT_S):
        raise Denied(
            f"worker {worker.worker_id} allows only its administrators to deploy, and the user of"
            " the token is not one of them. Ask one of them to add you, or to deploy the app and"
            " give you its service id (service.target existing)"
        )
    artifact_id = _artifact_id(worker, plan)
    version, fields = plan.package.version, {"artifact": artifact_id}
    if await _is_uploaded(worker, plan):
        logger.info("artifact %s %s is uploaded already", artifact_id, version, extra=fields)
    else:
        count = len(plan.package.files)
        logger.info("uploading %s %s, %d files", artifact_id, version, count, extra=fields)
        await _upload(worker, plan)
    fields = {"application": plan.application_id}
    logger.info("deploying application %s", plan.application_id, extra=fields)
    await worker.ask(
        "deploy_app",
        f"to deploy {plan.application_id}",
        BUILD_TIMEOUT_S,
        artifact_id=artifact_id,
        version=plan.package.version,
        application_id=plan.application_id,
        hypha_token=token,
        **plan.parameters,
    )


def _artifact_id(worker: Worker, plan: AppPlan) -> str:
    return f"{worker.workspace}/{plan.package.artifact_alias}"


async def _artifacts(worker: Worker) -> dict[str, Any]:
    return dict(await worker.ask("list_apps", "for its apps", ANSWER_TIMEOUT_S))


async def _is_uploaded(worker: Worker, plan: AppPlan) -> bool:
    """Tell whether the worker has the complete package, in this version with this content."""
    entry = (await _artifacts(worker)).get(_artifact_id(worker, plan))
    if entry is None:
        return False
    artifact = entry["manifest"]
    manifest = artifact.get("manifest") or artifact
    return (
        manifest.get("content_sha256") == plan.package.content_sha256
        and str(manifest.get("version")) == plan.package.version
        and {each["name"].partition("/")[0] for each in plan.package.files}
        <= {str(name).partition("/")[0] for name in entry["files"]}
    )


async def _upload(worker: Worker, plan: AppPlan) -> None:
    try:
        await worker.ask(
            "upload_app",
            "to upload the app",
            BUILD_TIMEOUT_S,
            files=list(plan.package.files),
        )
    except ServiceFailed as error:
        # Another run of the same checkout may have uploaded it meanwhile.
        if isinstance(error, ServiceGone) or not await _is_uploaded(worker, plan):
            raise


async def _stop(worker: Worker, application_id: str, polling: PollingIntervals) -> None:
    await worker.ask(
        "stop_app", f"to stop {application_id}", ANSWER_TIMEOUT_S, application_id=application_id
    )
    await _wait_until_gone(worker, application_id, polling)


async def _wait_until_gone(worker: Worker, application_id: str, polling: PollingIntervals) -> None:
    """Wait until the worker does not list the application and Hypha does not list its endpoints.

    The worker removes it from its list first and ends the replicas afterwards.
    """
    deadline = time.monotonic() + polling.end_s
    names = (application_id, f"{application_id}-direct")
    while True:
        state = (await worker.status_of(application_id))["status"]
        left = [await list_ids(worker.server, worker.workspace, name) for name in names]
        if state == GONE and not any(left):
            return
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"application {application_id} was not removed within {polling.end_s:g} s after"
                f" worker {worker.worker_id} was asked to stop it, last state {state}"
            )
        await asyncio.sleep(polling.poll_s)
