"""The BioEngine app: it serves one engine through BioEngine's proxy and through its own endpoints.

The worker loads this module where only BioEngine and the standard library are installed, so
everything else is imported inside methods. The environment (``application_env_vars``, under any
key) carries the settings that the class decorator needs:

- ``SAMSERVICE_ENGINE``: name of the engine; without it, the default engine
- ``SAMSERVICE_REQUIREMENTS``: the engine's pip requirements, as a JSON list
- ``SAMSERVICE_CPUS``, ``SAMSERVICE_MEMORY_MB``: CPU cores and memory that a replica reserves
- ``SAMSERVICE_GPU_MEMORY_MB``: as BioEngine's ``gpu_memory_mb``, -1 for a whole GPU
"""

import json
import os
from typing import Any

import bioengine

#: Above the service's queue limit, so that the queue answers "busy" instead of the proxy waiting.
MAX_ONGOING_REQUESTS = 64

#: With the time to disconnect, below the 20 s after which Ray kills a replica.
DRAIN_LIMIT_S = 8.0

#: Appended when a caller of the proxy is refused.
PROXY_IDENTITY_HINT = (
    "this service cannot verify callers of BioEngine's proxy; call the service ids that "
    "direct_ids returns"
)

#: What the service needs with any engine.
REQUIREMENTS = ["aiortc>=1.16", "hypha-rpc==0.21.47", "numcodecs>=0.13"]


def _reserved_resources() -> dict[str, Any]:
    """Return the resources that the environment requests, as keywords of ``bioengine.app``."""
    reserved: dict[str, Any] = {"num_cpus": float(os.environ.get("SAMSERVICE_CPUS", "1"))}
    for name in ("memory_mb", "gpu_memory_mb"):
        if value := os.environ.get(f"SAMSERVICE_{name.upper()}"):
            reserved[name] = int(value)
    return reserved


@bioengine.app(
    pip=[*REQUIREMENTS, *json.loads(os.environ.get("SAMSERVICE_REQUIREMENTS", "[]"))],
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    **_reserved_resources(),
)
class SegmentationApp:
    """The methods of samservice; ``direct_ids`` returns the addresses that avoid the proxy."""

    def __init__(
        self,
        engine_options: dict[str, Any] | None = None,
        limits: dict[str, int] | None = None,
        ice_servers: list[dict[str, Any]] | None = None,
        trust_proxy_identity: bool = False,
    ) -> None:
        """Keep the settings; :meth:`load` uses them.

        Args:
            engine_options: Keyword arguments of the engine.
            limits: Keyword arguments of ``samservice.server.app.Limits``.
            ice_servers: Dictionaries with ``urls``, ``username`` and ``credential``.
            trust_proxy_identity: Use the identity that the proxy reports. By default callers of
                the proxy are anonymous, because the proxy's own WebRTC lets a caller claim any
                identity. Set it only on a worker where this is fixed.
        """
        self._engine_options = engine_options or {}
        self._limits = limits or {}
        self._ice_servers = ice_servers
        self._trust_proxy_identity = trust_proxy_identity
        self._service: Any = None
        self._direct: Any = None

    @bioengine.async_init
    async def load(self) -> None:
        """Load the engine and open the direct endpoints; the app also runs without them."""
        import asyncio

        from samservice.contract.engine_description import DEFAULT_ENGINE
        from samservice.engines.base import build_engine
        from samservice.server.access import AccessRules
        from samservice.server.app import Limits, SegmentationService
        from samservice.server.direct import DirectEndpoint
        from samservice.server.serve import ServeSettings

        name = os.environ.get("SAMSERVICE_ENGINE", DEFAULT_ENGINE)
        engine = await asyncio.to_thread(build_engine, name, self._engine_options)
        # No caller is allowed until the worker's access rules are known.
        self._service = SegmentationService(engine, Limits(**self._limits), AccessRules({}))
        self._direct = DirectEndpoint(
            self._service,
            ServeSettings(
                os.environ.get("HYPHA_SERVER_URL", ""),
                token=os.environ.get("HYPHA_TOKEN"),
                workspace=os.environ.get("HYPHA_WORKSPACE"),
                service_id=f"{os.environ['BIOENGINE_APPLICATION_ID']}-direct",
                # The same as the proxy's services; the access rules decide who may call.
                visibility="public",
                ice_servers=self._ice_servers,
            ),
            read_users_by_method=_users_by_method,
        )
        await self._direct.maintain(wait_s=10.0)

    @bioengine.health_check
    async def stay_connected(self) -> None:
        """Reconnect lost endpoints; only a hang of the engine makes the replica unhealthy.

        Ray replaces the replica after several failed checks; until then the images in other stages
        end.
        """
        if self._direct is not None:
            await self._direct.maintain()
        hang = None if self._service is None else self._service.hang()
        if hang is not None:
            raise RuntimeError(f"an image hangs in the stage {hang.stage}")

    async def __del__(self) -> None:
        """End the images in the pipeline and disconnect before Ray ends the replica."""
        if self._service is not None:
            await self._service.drain(DRAIN_LIMIT_S)
        if self._direct is not None:
            await self._direct.close()
        if self._service is not None:
            self._service.close()

    @bioengine.method(context=True)
    async def segment_all(
        self,
        image_or_embedding: Any,
        embedding: bool = False,
        axes: str | None = None,
        context: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> Any:
        """Segment an image, see ``samservice.server.app``.

        Further keywords are the engine's parameters.
        """
        return await self._through_proxy(
            "segment_all", context, image_or_embedding, embedding=embedding, axes=axes, **parameters
        )

    @bioengine.method(context=True)
    async def encode_image(
        self,
        image: Any,
        axes: str | None = None,
        context: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> Any:
        """Return the embedding of an image for segment_all."""
        return await self._through_proxy("encode_image", context, image, axes=axes, **parameters)

    @bioengine.method(context=True)
    async def describe(self, context: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return engine, model, versions, parameters and limits."""
        description: dict[str, Any] = await self._through_proxy("describe", context)
        return description

    @bioengine.method(context=True)
    async def probe(
        self, payload: Any, reply_bytes: int = 0, context: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Answer with ``reply_bytes`` bytes, to measure a transport."""
        answer: dict[str, Any] = await self._through_proxy(
            "probe", context, payload, reply_bytes=reply_bytes
        )
        return answer

    @bioengine.method(context=True)
    async def direct_ids(self, context: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return server_url, workspace, service_id and rtc_service_id of a replica's endpoints.

        While the endpoints are not connected, ``unavailable`` holds the reason instead.
        """
        address: dict[str, Any] = self._direct.address()
        return address

    async def _through_proxy(
        self, method: str, context: dict[str, Any] | None, *arguments: Any, **options: Any
    ) -> Any:
        """Call the service for a caller of the proxy.

        Raises RuntimeError with the service's message: the proxy does not know its error classes.
        """
        from samservice.contract.errors import NotAuthorized, ServiceError

        await self._direct.require_rules()
        trusted_context = context if self._trust_proxy_identity else None
        try:
            return await getattr(self._service, method)(
                *arguments, context=trusted_context, **options
            )
        except NotAuthorized as error:
            hint = "" if trusted_context else f"; {PROXY_IDENTITY_HINT}"
            raise RuntimeError(f"{error}{hint}") from None
        except ServiceError as error:
            raise RuntimeError(str(error)) from None


async def _users_by_method() -> dict[str, list[str]]:
    """Return the allowed users of each method, from ``authorized_users`` of ``deploy_app``."""
    from ray import serve

    proxy = serve.get_deployment_handle(
        "ProxyDeployment", app_name=os.environ["BIOENGINE_APPLICATION_ID"]
    )
    data: dict[str, Any] = await proxy.get_app_data.remote()
    users: dict[str, list[str]] = data["authorized_users"]
    return users
