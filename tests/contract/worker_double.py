"""A double of a BioEngine 0.16 worker on a real Hypha server: its API, answers and refusals.

It has no Ray. An application of ours that it deploys is really served, in this process, under the
ids that a worker would give it. ``Script`` says what goes wrong. Every status asked for takes a
deployment one state further, so that a slow one takes no time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from hypha_rpc.webrtc_client import register_rtc_service

from samservice.engines.base import Engine, build_engine
from samservice.hypha.connection import connect, end_connection
from samservice.server.app import SegmentationService
from samservice.server.serve import Address, ServeSettings, serve

SERVICE_ID = "bioengine-worker"


@dataclass
class Script:
    """How this worker behaves; as it is, everything goes well."""

    version: str = "0.16.1"
    #: What a deployment is said to be, before ``ends_in``.
    coming: tuple[str, ...] = ("NOT_STARTED", "DEPLOYING", "DEPLOYING")
    ends_in: str = "RUNNING"
    #: What the failing part says, and what its replica logs ({token} is the token given to it).
    part_message: str = ""
    log: tuple[str, ...] = ()
    refuses_to_build: str | None = None
    #: The method in which the worker goes away.
    dies_in: str | None = None
    #: Somebody stops the application while it is deployed, or uploads the same package first.
    somebody_stops: bool = False
    somebody_uploads: bool = False
    #: Why the app has no endpoint of its own; None, it has.
    no_direct: str | None = None
    #: The exception's text with which the app answers every call.
    app_fails: str | None = None


@dataclass
class Application:
    """What the worker knows of an application."""

    parameters: dict[str, Any]
    deployer: str
    states: list[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    served: asyncio.Task[None] | None = None

    @property
    def token(self) -> str:
        return str(self.parameters["hypha_token"])


class WorkerDouble:
    """The worker's service. ``changes`` are the names of the calls that changed something."""

    def __init__(self, server: Any, url: str, token: str, admins: set[str], script: Script) -> None:
        self.script = script
        self.changes: list[str] = []
        self.applications: dict[str, Application] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self._server, self._url, self._token, self._admins = server, url, token, admins
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def workspace(self) -> str:
        return str(self._server.config["workspace"])

    @property
    def service_id(self) -> str:
        return f"{self.workspace}/{self._server.config['client_id']}:{SERVICE_ID}"

    def methods(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        names = ("get_status", "check_access", "upload_app", "list_apps", "delete_app")
        names += ("deploy_app", "stop_app", "get_app_status")
        return {name: getattr(self, name) for name in names}

    async def get_status(self, context: Any = None) -> dict[str, Any]:
        return {"bioengine_version": self.script.version, "is_ready": True}

    async def check_access(self, context: Any = None) -> bool:
        return context["user"]["id"] in self._admins

    async def upload_app(self, files: list[dict[str, str]], context: Any = None) -> str:
        self._only_admins(context, "creating or modifying an application")
        await self._maybe_die("upload_app")
        contents = {each["name"]: each["content"] for each in files}
        manifest = yaml.safe_load(contents["manifest.yaml"])
        try:
            artifact_id = f"{self.workspace}/{_checked_alias(manifest, contents)}"
            if self.script.somebody_uploads:
                self._store(artifact_id, manifest, contents)
            self._refuse_old_version(artifact_id, str(manifest["version"]))
        except ValueError as error:
            raise RuntimeError(f"Failed to create/update artifact: {error}") from error
        self.changes.append("upload_app")
        self._store(artifact_id, manifest, contents)
        return artifact_id

    def _store(self, artifact_id: str, manifest: Any, contents: dict[str, str]) -> None:
        before = self.artifacts.get(artifact_id, {"versions": []})["versions"]
        versions = [*before, {"version": str(manifest["version"])}]
        files = sorted({name.partition("/")[0] for name in contents})
        self.artifacts[artifact_id] = {"manifest": manifest, "versions": versions, "files": files}

    def _refuse_old_version(self, artifact_id: str, version: str) -> None:
        existing = [
            each["version"]
            for each in self.artifacts.get(artifact_id, {"versions": []})["versions"]
        ]
        if existing and _numbers(version) <= max(map(_numbers, existing)):
            raise ValueError(
                f"Cannot upload '{artifact_id}' at version '{version}': must be strictly greater"
                f" than the highest existing version '{max(existing, key=_numbers)}'. Bump the"
                f" version in manifest.yaml (existing: {existing})."
            )

    async def list_apps(self, context: Any = None) -> dict[str, Any]:
        self._only_admins(context, "listing applications")
        return {
            artifact_id: {
                "manifest": {"id": artifact_id, **each},
                "files": each["files"],
            }
            for artifact_id, each in self.artifacts.items()
        }

    async def delete_app(self, artifact_id: str, context: Any = None) -> None:
        self._only_admins(context, f"deleting the artifact '{artifact_id}'")
        self.changes.append("delete_app")
        del self.artifacts[artifact_id]

    async def deploy_app(
        self, artifact_id: str, application_id: str, context: Any = None, **parameters: Any
    ) -> str:
        self._only_admins(context, f"deploying an application from artifact '{artifact_id}'")
        await self._maybe_die("deploy_app")
        if artifact_id not in self.artifacts:
            raise ValueError(f"Artifact '{artifact_id}' does not exist.")
        if self.script.refuses_to_build:
            raise ValueError(self.script.refuses_to_build.format(token=parameters["hypha_token"]))
        unknown = parameters["scaling"].keys() | parameters["application_kwargs"].keys()
        if unknown - {"SegmentationApp"}:
            raise ValueError(f"Unknown class name {unknown!r}. Known: ['SegmentationApp']")
        self.changes.append("deploy_app")
        self.applications[application_id] = Application(
            {"artifact_id": artifact_id, **parameters},
            context["user"]["id"],
            [*self.script.coming, self.script.ends_in],
        )
        return application_id

    async def stop_app(self, application_id: str, context: Any = None) -> None:
        self._only_admins(context, f"undeploying the application '{application_id}'")
        if application_id not in self.applications:
            raise RuntimeError(f"Application '{application_id}' is not currently deployed.")
        self.changes.append("stop_app")
        # Forgotten at once, ended afterwards.
        ending = asyncio.ensure_future(self._end(self.applications.pop(application_id)))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def get_app_status(
        self,
        application_ids: list[str] | None = None,
        logs_tail: int = 30,
        context: Any = None,
    ) -> dict[str, Any]:
        await self._maybe_die("get_app_status")
        if self.script.somebody_stops:
            self.applications.clear()
        wanted = self.applications if application_ids is None else application_ids
        return {each: await self._status(each, logs_tail) for each in list(wanted)}

    async def _status(self, application_id: str, logs_tail: int) -> dict[str, Any]:
        application = self.applications.get(application_id)
        if application is None:
            message = f"Application '{application_id}' is not currently deployed."
            return {"status": "NOT_RUNNING", "message": message}
        if len(application.states) > 1:
            application.states.pop(0)
        state = application.states[0]
        if state == "RUNNING" and application.served is None:
            await self._serve(application_id, application)
        if state == "DELETING":
            # The next status does not know it any more.
            del self.applications[application_id]
        is_up = state == "RUNNING"
        proxy = f"{self.workspace}/{self._proxy_client(application_id)}:{application_id}"
        users = application.parameters["authorized_users"]["*"]
        log = [line.format(token=application.token) for line in self.script.log]
        part = {
            "status": "HEALTHY" if is_up else "UPDATING",
            "message": self.script.part_message,
            "logs": {
                "replica-1": {
                    "creation_timestamp": 1764000000.5,
                    "timezone": "UTC",
                    "stdout": log[-logs_tail:] if logs_tail else [],
                    "stderr": [],
                }
            },
        }
        return {
            "status": state,
            "message": "" if is_up else f"the application is {state.lower()}",
            "artifact_id": application.parameters["artifact_id"],
            "version": application.parameters["version"],
            "application_kwargs": application.parameters["application_kwargs"],
            "application_env_vars": application.parameters["application_env_vars"],
            "authorized_users": {"*": [*users, application.deployer]},
            "scaling": application.parameters["scaling"],
            "gpu_enabled": not application.parameters["disable_gpu"],
            "deployments": {"SegmentationApp": part},
            "service_ids": {
                "websocket_service_id": proxy if is_up else None,
                "webrtc_service_id": f"{proxy}-rtc" if is_up else None,
            },
        }

    def _proxy_client(self, application_id: str) -> str:
        digest = hashlib.sha1(application_id.encode()).hexdigest()[:8]
        return f"{self._server.config['client_id']}-{digest}"

    async def _serve(self, application_id: str, application: Application) -> None:
        """Serve the app at its own endpoint and over the proxy, and return once it is there."""
        environment = application.parameters["application_env_vars"]["SegmentationApp"]
        options = application.parameters["application_kwargs"]["SegmentationApp"]["engine_options"]
        engine = build_engine(environment["SAMSERVICE_ENGINE"], options)
        ready = asyncio.Event()
        application.served = asyncio.ensure_future(
            self._run_app(application_id, application, engine, ready)
        )
        await ready.wait()

    async def _run_app(
        self, application_id: str, application: Application, engine: Engine, ready: asyncio.Event
    ) -> None:
        direct = f"{application_id}-direct"

        async def announce(address: Address, _: Any) -> None:
            ready.set()

        async with self._proxy(application_id, application, engine) as proxy:
            if self.script.app_fails is not None:
                await self._register_failing(proxy, direct, self.script.app_fails)
            if self.script.no_direct is not None or self.script.app_fails is not None:
                ready.set()
                await application.stop.wait()
                return
            settings = ServeSettings(self._url, application.token, self.workspace, direct, "public")
            await serve(engine, settings, on_ready=announce, stop=application.stop)

    async def _register_failing(self, server: Any, name: str, text: str) -> None:
        async def describe(context: Any = None) -> None:
            raise RuntimeError(text)

        config = {"visibility": "public", "require_context": True}
        await server.register_service({"id": name, "config": config, "describe": describe})

    @asynccontextmanager
    async def _proxy(
        self, application_id: str, application: Application, engine: Engine
    ) -> AsyncIterator[Any]:
        service = SegmentationService(engine)
        is_open = "*" in application.parameters["authorized_users"]["*"]

        async def describe(context: Any = None) -> Any:
            if not is_open:
                raise RuntimeError("[samservice.NotAuthorized] a caller may not call describe")
            return await service.describe(context=context)

        async def direct_ids(context: Any = None) -> dict[str, Any]:
            return {"unavailable": self.script.no_direct}

        server = await connect(
            self._url,
            token=self._token,
            workspace=self.workspace,
            client_id=self._proxy_client(application_id),
        )
        try:
            await server.register_service(
                {
                    "id": application_id,
                    "type": "bioengine-app",
                    "config": {"visibility": "public", "require_context": True},
                    "describe": describe,
                    "direct_ids": direct_ids,
                }
            )
            await register_rtc_service(server, f"{application_id}-rtc")
            yield server
        finally:
            service.close()
            await end_connection(server.rpc._connection, wait_s=0.5)

    async def _end(self, application: Application) -> None:
        application.stop.set()
        if application.served is not None:
            await application.served

    async def close(self) -> None:
        """End every application and leave the server."""
        for application in self.applications.values():
            await self._end(application)
        await asyncio.gather(*self._ending)
        await self.die()

    async def die(self) -> None:
        """Leave without a word."""
        connection = self._server.rpc._connection
        if connection is not None:
            await end_connection(connection, wait_s=0)

    async def _maybe_die(self, method: str) -> None:
        if self.script.dies_in == method:
            # By a task of its own: leaving cancels what still answers, such as this.
            dying = asyncio.ensure_future(self.die())
            self._ending.add(dying)
            dying.add_done_callback(self._ending.discard)
            await asyncio.Event().wait()

    def _only_admins(self, context: Any, what: str) -> None:
        user = context["user"]["id"]
        if user not in self._admins:
            raise PermissionError(
                f"User '{user}' (no-email) is not authorized for {what}. Authorized users:"
                f" {sorted(self._admins)}"
            )


class OldWorkerDouble(WorkerDouble):
    """A worker of BioEngine 0.5 to 0.6, which has other methods."""

    def methods(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        async def refuse(context: Any = None, **_: Any) -> None:
            raise AssertionError("nothing may be changed on an old worker")

        names = ("save_application", "run_application", "stop_application")
        names += ("list_applications", "get_application_status")
        return {"get_status": self.get_status} | dict.fromkeys(names, refuse)


def _checked_alias(manifest: dict[str, Any], contents: dict[str, str]) -> str:
    if str(manifest.get("format_version")) != "0.6.0":
        raise ValueError(f"Unsupported format_version: {manifest.get('format_version')!r}.")
    for required in ("name", "id", "id_emoji", "description", "type", "entry"):
        if required not in manifest:
            raise ValueError(f"Manifest is missing required field: '{required}'")
    module, _, _ = manifest["entry"].partition(":")
    if f"{module}.py" not in contents:
        raise ValueError(f"Invalid 'entry' value: {manifest['entry']!r}.")
    alias = str(manifest["id"])
    if not alias.islower() or "_" in alias or not alias.replace("-", "_").isidentifier():
        raise ValueError(f"Invalid artifact alias: '{alias}'.")
    return alias


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@asynccontextmanager
async def running_worker(
    url: str,
    token: str,
    workspace: str,
    admins: set[str],
    script: Script,
    *,
    kind: type[WorkerDouble] = WorkerDouble,
    client_id: str = "worker",
) -> AsyncIterator[WorkerDouble]:
    """Register a double in the workspace; everything it served is gone at the end."""
    server = await connect(url, token=token, workspace=workspace, client_id=client_id)
    worker = kind(server, url, token, admins, script)
    try:
        await server.register_service(
            {
                "id": SERVICE_ID,
                "name": "a worker",
                "type": "bioengine-worker",
                "config": {"visibility": "public", "require_context": True},
                **worker.methods(),
            }
        )
        yield worker
    finally:
        await worker.close()
